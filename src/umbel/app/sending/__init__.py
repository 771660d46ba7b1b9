"""From a call to the message that the broker takes."""
