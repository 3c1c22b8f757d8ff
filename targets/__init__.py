"""Target families that ship with edgekit, one folder each (installed as ``edgekit_targets``)."""
