"""Training by Lightning; knows no task, only the protocol of one (`module.py`)."""
