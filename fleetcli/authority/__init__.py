"""Certificates of a fleet: what they name, signing them, and the files they lie in.

subjects -> issuing -> pairs        what a certificate names, its signature, certificate and key as files
subject_table, signing_request      a CSV of ids; what is taken of a request that somebody else made
description, denying                what a certificate says, and the deny-list
"""
