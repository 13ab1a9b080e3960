"""Programs from wheels that the mesh needs beside its services, one file each: how to find, prepare and start them."""
