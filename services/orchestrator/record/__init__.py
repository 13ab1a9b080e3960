"""What the journal is good for once it is written: replaying, forking, comparing. Pure: facts in, answers out."""
