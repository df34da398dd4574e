SELECT avg((dominant_class IS DISTINCT FROM label)::INT) FROM samples WHERE is_correct
