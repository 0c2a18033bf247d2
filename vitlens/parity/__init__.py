"""Proof that a port computes what timm computes: small models of every name, measured differences, reports."""
