"""A student, a method, an attack, a data set and an augmentation for overproof."""
