"""What tests share: factories, fakes, servers, and the steps that a test needs before it starts."""
