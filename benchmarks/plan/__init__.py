"""`dgemma plan`: what a model will cost on a device that may not be at hand, from a profile of the device."""
