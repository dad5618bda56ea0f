"""How well the classes of a survey can be told apart at all: by whoever knows its lenses, its noise and its dark matter.

Networks are measured against this: an AUC says little as long as nobody knows how much there was to be found.
"""
