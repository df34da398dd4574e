SELECT avg(class_cosine) FROM samples
