"""The first command of a new user: a simulated lens, and images of Model I, that come with the package."""
