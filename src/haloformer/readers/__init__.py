"""Files from outside: images in every form, each read through guards for kind, size, unpacked size and time."""
