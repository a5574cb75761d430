"""GitHub, and GitHub Enterprise Server.

webhooks.py                     what its events say
app.py, tokens.py               who we are there: an App, and its short-lived tokens
credentials.py                  by what each repository is asked for
client.py                       what GitHub tells: heads, descriptions, pull requests
checks.py, statuses.py, deployments.py, comments.py     what is shown there
texts.py                        its bounds on texts
"""
