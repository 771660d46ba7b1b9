"""Settings: their table, their spellings, where they are read from, what is written from them."""
