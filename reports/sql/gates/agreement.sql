SELECT avg((dominant_class IS NOT DISTINCT FROM prediction)::INT) FROM samples
