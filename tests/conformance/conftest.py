"""Only the tests are collected: the other files are imported by them, and without PyTorch cannot be."""

collect_ignore_glob = ["[!t]*.py"]
