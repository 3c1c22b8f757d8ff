"""Programs that go to a device as they are."""
