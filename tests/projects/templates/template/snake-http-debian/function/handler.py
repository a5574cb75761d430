def handle(path):
    return "the sample"
