"""What is shown in a browser: the report of a run (inference.py --report) and the page to play on (app.py)."""
