"""Every layer against PyTorch: `test_pytorch.py` has the table, the other files say how the cases of its rows are drawn."""
