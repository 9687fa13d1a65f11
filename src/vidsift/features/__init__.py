"""What frozen towers say of a data set, kept on disk and read back by training, teachers and evaluation."""
