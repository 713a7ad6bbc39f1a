BEGIN TRANSACTION;
CREATE TABLE corpora (
	id VARCHAR(64) NOT NULL, 
	settings JSON NOT NULL, 
	directory VARCHAR(128) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (directory)
);
INSERT INTO "corpora" VALUES('book','{"id": "book"}','book-1','active',1764000000.5,1764000000.5);
CREATE TABLE corpus_documents (
	corpus_id VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	characters INTEGER NOT NULL, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (corpus_id, number), 
	FOREIGN KEY(corpus_id) REFERENCES corpora (id) ON DELETE CASCADE
);
INSERT INTO "corpus_documents" VALUES('book',0,'a "quoted" file.txt','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',12,1764000000.5);
CREATE TABLE corpus_jobs (
	job_number INTEGER NOT NULL, 
	corpus_id VARCHAR(64) NOT NULL, 
	payload JSON NOT NULL, 
	PRIMARY KEY (job_number), 
	FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
);
CREATE TABLE generations (
	number INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	fingerprint TEXT NOT NULL, 
	cause VARCHAR(16) NOT NULL, 
	num_targets INTEGER NOT NULL, 
	created_at DOUBLE NOT NULL, 
	confirmed_at DOUBLE, 
	PRIMARY KEY (number)
);
INSERT INTO "generations" VALUES(2,'dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','f','replace',1,1764000100.5,1764000101.0);
CREATE TABLE job_targets (
	job_number INTEGER NOT NULL, 
	target_id VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (job_number, target_id), 
	FOREIGN KEY(job_number) REFERENCES jobs (number) ON DELETE CASCADE
);
INSERT INTO "job_targets" VALUES(1,'ada',2);
CREATE TABLE jobs (
	number INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	progress DOUBLE NOT NULL, 
	message TEXT NOT NULL, 
	error_code VARCHAR(64), 
	error_message TEXT, 
	generation INTEGER, 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	finished_at DOUBLE, 
	PRIMARY KEY (number), 
	UNIQUE (id)
);
INSERT INTO "jobs" VALUES(1,'00000000000000000000000000000000','replace','done',1.0,'',NULL,NULL,2,1764000100.5,NULL,1764000101.5);
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
CREATE TABLE targets (
	id VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	active_revision INTEGER, 
	generation INTEGER, 
	status VARCHAR(16) NOT NULL, 
	summary JSON NOT NULL, 
	report JSON, 
	error_code VARCHAR(64), 
	error_message TEXT, 
	expires_at DOUBLE, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "targets" VALUES('ada',2,2,2,'active','{"description": "An author", "action": "steer", "enforcement": "enforce", "scope": "matched", "num_examples": 0, "num_phrases": 1, "num_documents": 0, "labels": {}}','{"phrases": 1}',NULL,NULL,NULL,1764000000.5,1764000100.5);
CREATE TABLE versions (
	target_id VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	document JSON NOT NULL, 
	PRIMARY KEY (target_id, revision), 
	FOREIGN KEY(target_id) REFERENCES targets (id) ON DELETE CASCADE
);
INSERT INTO "versions" VALUES('ada',2,'{"id": "ada", "description": "An author", "phrases": [{"text": "Port Sorrel", "whole_word": true}]}');
CREATE INDEX ix_targets_status ON targets (status);
CREATE INDEX ix_targets_expires_at ON targets (expires_at);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX job_targets_by_target ON job_targets (target_id);
CREATE INDEX ix_corpus_jobs_corpus_id ON corpus_jobs (corpus_id);
COMMIT;
