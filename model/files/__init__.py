"""Reading files of weights safely."""
