"""Small datasets written the way annotation tools write theirs, with what is known to be in them."""
