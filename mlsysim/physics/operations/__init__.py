"""Operations: energy, failures, prices and scaling laws."""
