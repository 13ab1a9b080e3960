"""What every service needs to be a good citizen of the mesh, and nothing about agents."""
