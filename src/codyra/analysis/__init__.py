"""What a model and its updates tell when one looks closer: figures as CSV, pictures as SVG."""
