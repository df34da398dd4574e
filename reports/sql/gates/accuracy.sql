SELECT avg(is_correct::INT) FROM samples
