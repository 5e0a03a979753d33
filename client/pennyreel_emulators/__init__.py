"""Emulations of the services pennyreel talks to. They share no code with it, nor its mistakes."""
