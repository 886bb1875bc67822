"""Collect the tests alone: the other files here can be imported only where PyTorch is installed."""

collect_ignore_glob = ["[!t]*.py"]
