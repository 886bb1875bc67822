"""Reading programs (jaxprs): equations, taps, wiring, costs, and the origin of non-finite values."""
