.PHONY: gen
PYTHON := .venv/bin/python

gen:  ## make gen/ from the protos
	$(PYTHON) -m protos.codegen
