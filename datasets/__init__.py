"""From videos and images as they lie on disk to a catalogue that a training reads."""
