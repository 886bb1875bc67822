"""Reading programs (jaxprs): equations, taps, wiring, costs."""
