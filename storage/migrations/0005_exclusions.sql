-- Annotators whose judgments do not count: what the researcher said last. Nothing is deleted; including them again counts all of it.

CREATE VIEW excluded_annotators AS
SELECT subject AS annotator_id, arg_max(json_extract_string(data, '$.reason'), seq) AS reason, max("at") AS since
FROM events WHERE kind IN ('annotator.excluded', 'annotator.included')
GROUP BY subject HAVING arg_max(kind, seq) = 'annotator.excluded';

CREATE OR REPLACE VIEW judged_pairs AS
SELECT id, CAST(NULL AS VARCHAR) AS ranking_id, seq, task_id, annotator_id, prompt_id, response_a_id, response_b_id,
       verdict, strength, aspects, rationale, reasons, edited_text, spans, shown_at, submitted_at, supersedes
FROM standing
WHERE (len(more_response_ids) = 0 OR verdict = 'skip') AND task_id NOT IN (SELECT id FROM tasks WHERE purpose = 'gold')
  AND annotator_id NOT IN (SELECT annotator_id FROM excluded_annotators)
UNION ALL
SELECT * FROM ranking_pairs
WHERE ranking_id IN (SELECT id FROM standing) AND task_id NOT IN (SELECT id FROM tasks WHERE purpose = 'gold')
  AND annotator_id NOT IN (SELECT annotator_id FROM excluded_annotators);

CREATE OR REPLACE VIEW all_judgments AS
SELECT j.seq, j.id AS judgment_id, j.ranking_id, j.task_id,
       j.annotator_id, annotators.handle AS annotator, annotators.kind AS annotator_kind,
       j.prompt_id, prompts.messages, prompts.source, prompts.split, prompts.tags,
       j.response_a_id, j.response_b_id, a.text AS response_a, b.text AS response_b,
       a.context AS context_a, b.context AS context_b,
       a.policy_id AS policy_a_id, b.policy_id AS policy_b_id, a.model AS model_a, b.model AS model_b,
       j.verdict, j.strength, j.aspects, j.rationale, j.reasons, j.edited_text, j.spans,
       tasks.purpose, tasks.selection_rule, tasks.selection_score, tasks.selection_prob,
       j.shown_at, j.submitted_at, j.supersedes,
       coalesce(j.ranking_id, j.id) IN (SELECT id FROM standing) AS standing,
       j.annotator_id IN (SELECT annotator_id FROM excluded_annotators) AS excluded
FROM all_pairs j
JOIN tasks ON tasks.id = j.task_id
JOIN prompts ON prompts.id = j.prompt_id
JOIN written a ON a.id = j.response_a_id
JOIN written b ON b.id = j.response_b_id
JOIN annotators ON annotators.id = j.annotator_id;

CREATE OR REPLACE VIEW standing_judgments AS
SELECT * EXCLUDE (standing, excluded) FROM all_judgments WHERE standing AND purpose <> 'gold' AND NOT excluded;
