SELECT sample_index
FROM samples
WHERE class_cosine > (SELECT avg(class_cosine) FROM samples)
ORDER BY class_cosine DESC, sample_index
