BEGIN TRANSACTION;
CREATE TABLE agentlightning_layout (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "agentlightning_layout" VALUES(2);
CREATE TABLE attempts (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	attempt_id TEXT NOT NULL, 
	sequence_id INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	start_time DOUBLE, 
	end_time DOUBLE, 
	worker_id TEXT, 
	last_heartbeat_time DOUBLE, 
	body TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT attempts_key UNIQUE (rollout_id, attempt_id)
);
INSERT INTO "attempts" VALUES(1,'ro-1','at-bda44eea',1,'succeeded',1.79528196075026631357e+09,1.79528196076603579521e+09,'w1',1.79528196076516604424e+09,'{"metadata":{"outcome":"ok"}}');
INSERT INTO "attempts" VALUES(2,'ro-2','at-2c08e179',1,'preparing',1.79528196076692509643e+09,NULL,'w1',NULL,'{}');
CREATE TABLE content_owners (
	rollout_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	PRIMARY KEY (rollout_id, name)
)
 WITHOUT ROWID

;
INSERT INTO "content_owners" VALUES('ro-1','VMqrv8GtOHCb1Re0a3WG');
INSERT INTO "content_owners" VALUES('ro-1','dRcYeqZD-JEAed_KA1z3');
CREATE TABLE contents (
	name TEXT NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "contents" VALUES('VMqrv8GtOHCb1Re0a3WG',' helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. ');
INSERT INTO "contents" VALUES('dRcYeqZD-JEAed_KA1z3','You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a');
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	count INTEGER NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "events" VALUES(1,1,'[["rollout_created",1795281960.7342243,"ro-1",null,null,null,"queuing",{"mode":"train","metadata":{"run":"r1","n":1}}]]');
INSERT INTO "events" VALUES(2,1,'[["rollout_created",1795281960.7489867,"ro-2",null,null,null,"queuing",{"mode":"val","metadata":{}}]]');
INSERT INTO "events" VALUES(3,1,'[["rollout_created",1795281960.7492747,"ro-3",null,null,null,"queuing",{"mode":null,"metadata":{}}]]');
INSERT INTO "events" VALUES(4,1,'[["resources_updated",1795281960.749419,null,null,"main",null,null,{"version":1}]]');
INSERT INTO "events" VALUES(7,3,'[["rollout_updated",1795281960.7502663,"ro-1",null,"main",null,"preparing",{"mode":"train","metadata":{"run":"r1","n":1}}],["attempt_started",1795281960.7502663,"ro-1","at-bda44eea",null,"w1","preparing",{"mode":"train","metadata":{"run":"r1","n":1}}],["worker_updated",1795281960.7502663,"ro-1","at-bda44eea",null,"w1","busy",{}]]');
INSERT INTO "events" VALUES(10,3,'[["spans_added",1795281960.752189,"ro-1","at-bda44eea",null,"w1","preparing",{"mode":"train","metadata":{"run":"r1","n":1},"count":1}],["attempt_updated",1795281960.752189,"ro-1","at-bda44eea",null,"w1","running",{"mode":"train","metadata":{"run":"r1","n":1}}],["rollout_updated",1795281960.752189,"ro-1",null,"main",null,"running",{"mode":"train","metadata":{"run":"r1","n":1}}]]');
INSERT INTO "events" VALUES(11,1,'[["spans_added",1795281960.765166,"ro-1","at-bda44eea",null,"w1","running",{"mode":"train","metadata":{"run":"r1","n":1},"count":1}]]');
INSERT INTO "events" VALUES(14,3,'[["attempt_updated",1795281960.7660358,"ro-1","at-bda44eea",null,"w1","succeeded",{"mode":"train","metadata":{"run":"r1","n":1}}],["rollout_updated",1795281960.7660358,"ro-1",null,"main",null,"succeeded",{"mode":"train","metadata":{"run":"r1","n":1}}],["worker_updated",1795281960.7660358,null,null,null,"w1","idle",{}]]');
INSERT INTO "events" VALUES(17,3,'[["rollout_updated",1795281960.766925,"ro-2",null,"main",null,"preparing",{"mode":"val","metadata":{}}],["attempt_started",1795281960.766925,"ro-2","at-2c08e179",null,"w1","preparing",{"mode":"val","metadata":{}}],["worker_updated",1795281960.766925,"ro-2","at-2c08e179",null,"w1","busy",{}]]');
CREATE TABLE replies (
	"key" TEXT NOT NULL, 
	time DOUBLE NOT NULL, 
	refs TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE resource_versions (
	ordinal INTEGER NOT NULL, 
	resources_id TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	create_time DOUBLE, 
	update_time DOUBLE, 
	body TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT resource_versions_key UNIQUE (resources_id, version)
);
CREATE TABLE resources (
	ordinal INTEGER NOT NULL, 
	resources_id TEXT NOT NULL, 
	create_time DOUBLE, 
	update_time DOUBLE, 
	version INTEGER NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT resources_key UNIQUE (resources_id)
);
INSERT INTO "resources" VALUES(1,'main',1.79528196074941897393e+09,1.79528196074941897393e+09,1,'{"resources":{}}');
CREATE TABLE rollout_queue (
	ordinal INTEGER NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (ordinal)
);
INSERT INTO "rollout_queue" VALUES(3,'ro-3');
CREATE TABLE rollout_tags (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	ordinal INTEGER NOT NULL, 
	PRIMARY KEY ("key", value, ordinal)
)
 WITHOUT ROWID

;
INSERT INTO "rollout_tags" VALUES('sn','n1.0',1);
INSERT INTO "rollout_tags" VALUES('srun','sr1',1);
CREATE TABLE rollouts (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	mode TEXT, 
	resources_id TEXT, 
	start_time DOUBLE, 
	end_time DOUBLE, 
	body TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT rollouts_key UNIQUE (rollout_id)
);
INSERT INTO "rollouts" VALUES(1,'ro-1','succeeded','train','main',1.79528196073422431945e+09,1.79528196076603579521e+09,' {"input":{"q":"first","odd":[Infinity,1180591620717411303424,null]},"metadata":{"run":"r1","n":1}}');
INSERT INTO "rollouts" VALUES(2,'ro-2','preparing','val','main',1.79528196074898672108e+09,NULL,'{"input":{"q":"second"},"metadata":{}}');
INSERT INTO "rollouts" VALUES(3,'ro-3','queuing',NULL,NULL,1.79528196074927473072e+09,NULL,'{"input":{"q":"third"},"metadata":{}}');
CREATE TABLE span_sequence_ids (
	"key" TEXT NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY ("key")
)
 WITHOUT ROWID

;
INSERT INTO "span_sequence_ids" VALUES('ro-1',2);
CREATE TABLE spans (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	attempt_id TEXT NOT NULL, 
	span_id TEXT NOT NULL, 
	sequence_id INTEGER NOT NULL, 
	trace_id TEXT NOT NULL, 
	parent_id TEXT, 
	name TEXT NOT NULL, 
	start_time DOUBLE, 
	end_time DOUBLE, 
	body TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT spans_key UNIQUE (rollout_id, attempt_id, span_id)
);
INSERT INTO "spans" VALUES(1,'ro-1','at-bda44eea','0000000000000001',1,'abababababababababababababababab',NULL,'chat',1.0,2.0,'{"attributes":{"prompt":0,"n":1},"status":"OK","~":{"prompt":["s","dRcYeqZD-JEAed_KA1z3","VMqrv8GtOHCb1Re0a3WG"]}}');
INSERT INTO "spans" VALUES(2,'ro-1','at-bda44eea','0000000000000002',2,'abababababababababababababababab',NULL,'chat',1.0,2.0,'{"attributes":{"prompt":0,"n":2},"status":"OK","~":{"prompt":["s","dRcYeqZD-JEAed_KA1z3","VMqrv8GtOHCb1Re0a3WG"]}}');
CREATE TABLE totals (
	name TEXT NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;
INSERT INTO "totals" VALUES('attempts',2);
INSERT INTO "totals" VALUES('events',17);
INSERT INTO "totals" VALUES('resources',1);
INSERT INTO "totals" VALUES('rollouts/preparing/train',0);
INSERT INTO "totals" VALUES('rollouts/preparing/val',1);
INSERT INTO "totals" VALUES('rollouts/queuing/',1);
INSERT INTO "totals" VALUES('rollouts/queuing/train',0);
INSERT INTO "totals" VALUES('rollouts/queuing/val',0);
INSERT INTO "totals" VALUES('rollouts/running/train',0);
INSERT INTO "totals" VALUES('rollouts/succeeded/train',1);
INSERT INTO "totals" VALUES('spans',2);
INSERT INTO "totals" VALUES('workers',1);
CREATE TABLE workers (
	ordinal INTEGER NOT NULL, 
	worker_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	last_heartbeat_time DOUBLE, 
	last_dequeue_time DOUBLE, 
	last_busy_time DOUBLE, 
	last_idle_time DOUBLE, 
	current_rollout_id TEXT, 
	current_attempt_id TEXT, 
	body TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT workers_key UNIQUE (worker_id)
);
INSERT INTO "workers" VALUES(1,'w1','busy',NULL,1.79528196076692509643e+09,1.79528196076692509643e+09,1.79528196076603579521e+09,'ro-2','at-2c08e179','{}');
CREATE INDEX ix_content_owners_name ON content_owners (name);
CREATE INDEX ix_replies_time ON replies (time);
CREATE INDEX resources_update_time ON resources (update_time);
CREATE INDEX ix_rollout_queue_value ON rollout_queue (value);
CREATE INDEX rollouts_end_time ON rollouts (end_time);
CREATE INDEX rollouts_mode ON rollouts (mode) WHERE mode IS NOT NULL;
CREATE INDEX rollouts_start_time ON rollouts (start_time);
CREATE INDEX rollouts_status ON rollouts (status);
CREATE INDEX spans_sequence ON spans (rollout_id, sequence_id);
COMMIT;
