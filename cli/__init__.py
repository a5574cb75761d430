"""`slipway …`: thin. Everything but `up`, `config` and `doctor` asks the gateway over HTTP.

Exit status: 0 ok, 1 failed, 2 wrong usage.
"""
