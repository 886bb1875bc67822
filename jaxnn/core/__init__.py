"""The contract and what composes it; this room knows no other."""
