# Which images there are, and their names. `make images` builds them all.

variable "REGISTRY" {
  default = "ghcr.io/comitia"
}

# Of all images; several are separated by commas.
variable "TAGS" {
  default = "dev"
}

group "default" {
  targets = ["image"]
}

target "image" {
  name = image
  matrix = {
    image = [
      "gateway", "orchestrator", "inference", "policy", "memory", "tools", "cost",
      "local-model", "launcher", "edge",
    ]
  }
  context    = "."
  dockerfile = "deploy/docker/Dockerfile"
  target     = image
  tags       = [for tag in split(",", TAGS) : "${REGISTRY}/comitia-${image}:${tag}"]
  labels = {
    "org.opencontainers.image.source"   = "https://github.com/comitia/comitia"
    "org.opencontainers.image.licenses" = "Apache-2.0"
    "org.opencontainers.image.title"    = "comitia-${image}"
  }
}
