"""When a deployment is asked, asked again and left alone. Pure: time and dice come in as arguments."""
