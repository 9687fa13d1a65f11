"""Training a small dual encoder from nothing on the storyboard world, in stages."""
