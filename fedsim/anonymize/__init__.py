"""Data anonymization: records made safe on the client, before anything is learned from them."""
