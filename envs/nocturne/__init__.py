"""Nocturne's driving world, written anew: scenes, dynamics, collisions and pictures, as its measurements describe them."""
