"""The blueprint that tests of the builder share; what is selected they add themselves."""

STAGES = """
sources = ["films"]
[scenes]
min_seconds = 0.5
[stages.technical]
[stages.motion]
[stages.quality]
[stages.duplicates]
[stages.captions]
"""
