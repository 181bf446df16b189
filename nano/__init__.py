"""The small world that proves the house: generated shapes, small models of them, and what they reach."""
