SELECT min(correct_frac) FROM class_stats WHERE sample_count >= $min_samples
