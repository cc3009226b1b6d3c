BEGIN TRANSACTION;
CREATE TABLE agentlightning_layout (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "agentlightning_layout" VALUES(1);
CREATE TABLE attempts (
	ordinal INTEGER NOT NULL, 
	rollout_id VARCHAR NOT NULL, 
	attempt_id VARCHAR NOT NULL, 
	sequence_id INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	start_time FLOAT NOT NULL, 
	end_time FLOAT, 
	worker_id VARCHAR, 
	last_heartbeat_time FLOAT, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT attempts_key UNIQUE (rollout_id, attempt_id)
);
INSERT INTO "attempts" VALUES(1,'ro-1','at-fb14bf14',1,'failed',1.79527251486032819747e+09,1.79527251486883330337e+09,'worker-1',1.79527251486498665806e+09,'{"rollout_id":"ro-1","attempt_id":"at-fb14bf14","sequence_id":1,"start_time":1795272514.8603282,"end_time":1795272514.8688333,"status":"failed","worker_id":"worker-1","last_heartbeat_time":1795272514.8649867,"metadata":{"why":"test"}}');
INSERT INTO "attempts" VALUES(2,'ro-2','at-eb99eb95',1,'succeeded',1.79527251486967515947e+09,1.79527251487018322945e+09,'worker-2',1.79527251487018322945e+09,'{"rollout_id":"ro-2","attempt_id":"at-eb99eb95","sequence_id":1,"start_time":1795272514.8696752,"end_time":1795272514.8701832,"status":"succeeded","worker_id":"worker-2","last_heartbeat_time":1795272514.8701832,"metadata":{"outcome":"ok"}}');
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "events" VALUES(1,'{"seq":1,"kind":"resources_updated","time":1795272514.845116,"rollout_id":null,"attempt_id":null,"resources_id":"main","worker_id":null,"status":null,"data":{"version":1}}');
INSERT INTO "events" VALUES(2,'{"seq":2,"kind":"resources_updated","time":1795272514.8532412,"rollout_id":null,"attempt_id":null,"resources_id":"main","worker_id":null,"status":null,"data":{"version":2}}');
INSERT INTO "events" VALUES(3,'{"seq":3,"kind":"rollout_created","time":1795272514.8542945,"rollout_id":"ro-1","attempt_id":null,"resources_id":"main","worker_id":null,"status":"queuing","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(4,'{"seq":4,"kind":"rollout_created","time":1795272514.8594606,"rollout_id":"ro-2","attempt_id":null,"resources_id":"main","worker_id":null,"status":"queuing","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(5,'{"seq":5,"kind":"rollout_created","time":1795272514.8599494,"rollout_id":"ro-3","attempt_id":null,"resources_id":"main","worker_id":null,"status":"queuing","data":{"mode":null,"metadata":{}}}');
INSERT INTO "events" VALUES(6,'{"seq":6,"kind":"rollout_updated","time":1795272514.8603282,"rollout_id":"ro-1","attempt_id":null,"resources_id":"main","worker_id":null,"status":"preparing","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(7,'{"seq":7,"kind":"attempt_started","time":1795272514.8603282,"rollout_id":"ro-1","attempt_id":"at-fb14bf14","resources_id":null,"worker_id":"worker-1","status":"preparing","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(8,'{"seq":8,"kind":"worker_updated","time":1795272514.8603282,"rollout_id":"ro-1","attempt_id":"at-fb14bf14","resources_id":null,"worker_id":"worker-1","status":"busy","data":{}}');
INSERT INTO "events" VALUES(9,'{"seq":9,"kind":"spans_added","time":1795272514.8649867,"rollout_id":"ro-1","attempt_id":"at-fb14bf14","resources_id":null,"worker_id":"worker-1","status":"preparing","data":{"mode":"train","metadata":{"run":"r1","n":1},"count":2}}');
INSERT INTO "events" VALUES(10,'{"seq":10,"kind":"attempt_updated","time":1795272514.8649867,"rollout_id":"ro-1","attempt_id":"at-fb14bf14","resources_id":null,"worker_id":"worker-1","status":"running","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(11,'{"seq":11,"kind":"rollout_updated","time":1795272514.8649867,"rollout_id":"ro-1","attempt_id":null,"resources_id":"main","worker_id":null,"status":"running","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(12,'{"seq":12,"kind":"attempt_updated","time":1795272514.8688333,"rollout_id":"ro-1","attempt_id":"at-fb14bf14","resources_id":null,"worker_id":"worker-1","status":"failed","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(13,'{"seq":13,"kind":"rollout_updated","time":1795272514.8688333,"rollout_id":"ro-1","attempt_id":null,"resources_id":"main","worker_id":null,"status":"requeuing","data":{"mode":"train","metadata":{"run":"r1","n":1}}}');
INSERT INTO "events" VALUES(14,'{"seq":14,"kind":"worker_updated","time":1795272514.8688333,"rollout_id":null,"attempt_id":null,"resources_id":null,"worker_id":"worker-1","status":"idle","data":{}}');
INSERT INTO "events" VALUES(15,'{"seq":15,"kind":"rollout_updated","time":1795272514.8696752,"rollout_id":"ro-2","attempt_id":null,"resources_id":"main","worker_id":null,"status":"preparing","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(16,'{"seq":16,"kind":"attempt_started","time":1795272514.8696752,"rollout_id":"ro-2","attempt_id":"at-eb99eb95","resources_id":null,"worker_id":"worker-2","status":"preparing","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(17,'{"seq":17,"kind":"worker_updated","time":1795272514.8696752,"rollout_id":"ro-2","attempt_id":"at-eb99eb95","resources_id":null,"worker_id":"worker-2","status":"busy","data":{}}');
INSERT INTO "events" VALUES(18,'{"seq":18,"kind":"spans_added","time":1795272514.8701832,"rollout_id":"ro-2","attempt_id":"at-eb99eb95","resources_id":null,"worker_id":"worker-2","status":"preparing","data":{"mode":"val","metadata":{},"count":1}}');
INSERT INTO "events" VALUES(19,'{"seq":19,"kind":"attempt_updated","time":1795272514.8701832,"rollout_id":"ro-2","attempt_id":"at-eb99eb95","resources_id":null,"worker_id":"worker-2","status":"running","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(20,'{"seq":20,"kind":"rollout_updated","time":1795272514.8701832,"rollout_id":"ro-2","attempt_id":null,"resources_id":"main","worker_id":null,"status":"running","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(21,'{"seq":21,"kind":"attempt_updated","time":1795272514.8701832,"rollout_id":"ro-2","attempt_id":"at-eb99eb95","resources_id":null,"worker_id":"worker-2","status":"succeeded","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(22,'{"seq":22,"kind":"rollout_updated","time":1795272514.8701832,"rollout_id":"ro-2","attempt_id":null,"resources_id":"main","worker_id":null,"status":"succeeded","data":{"mode":"val","metadata":{}}}');
INSERT INTO "events" VALUES(23,'{"seq":23,"kind":"worker_updated","time":1795272514.8701832,"rollout_id":null,"attempt_id":null,"resources_id":null,"worker_id":"worker-2","status":"idle","data":{}}');
CREATE TABLE resource_versions (
	ordinal INTEGER NOT NULL, 
	resources_id VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	create_time FLOAT NOT NULL, 
	update_time FLOAT NOT NULL, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT resource_versions_key UNIQUE (resources_id, version)
);
INSERT INTO "resource_versions" VALUES(1,'main',1,1.79527251484511590003e+09,1.79527251484511590003e+09,'{"resources_id":"main","create_time":1795272514.845116,"update_time":1795272514.845116,"version":1,"resources":{"prompt":{"resource_type":"prompt_template","template":"one","engine":"jinja"}}}');
CREATE TABLE resources (
	ordinal INTEGER NOT NULL, 
	resources_id VARCHAR NOT NULL, 
	create_time FLOAT NOT NULL, 
	update_time FLOAT NOT NULL, 
	version INTEGER NOT NULL, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT resources_key UNIQUE (resources_id)
);
INSERT INTO "resources" VALUES(1,'main',1.79527251484511590003e+09,1.79527251485324120527e+09,2,'{"resources_id":"main","create_time":1795272514.845116,"update_time":1795272514.8532412,"version":2,"resources":{"prompt":{"resource_type":"prompt_template","template":"two","engine":"jinja"},"llm":{"resource_type":"llm","endpoint":"http://h/v1","model":"m","api_key":null,"sampling_parameters":{}}}}');
CREATE TABLE rollout_queue (
	ordinal INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	value VARCHAR NOT NULL
);
INSERT INTO "rollout_queue" VALUES(3,'ro-3');
INSERT INTO "rollout_queue" VALUES(4,'ro-1');
CREATE TABLE rollouts (
	ordinal INTEGER NOT NULL, 
	rollout_id VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	mode VARCHAR, 
	resources_id VARCHAR, 
	start_time FLOAT NOT NULL, 
	end_time FLOAT, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT rollouts_key UNIQUE (rollout_id)
);
INSERT INTO "rollouts" VALUES(1,'ro-1','requeuing','train','main',1.79527251485429453848e+09,NULL,'{"rollout_id":"ro-1","input":{"q":"first","odd":[Infinity,1180591620717411303424,null]},"start_time":1795272514.8542945,"end_time":null,"mode":"train","resources_id":"main","status":"requeuing","config":{"timeout_seconds":1000000000.0,"unresponsive_seconds":null,"max_attempts":3,"retry_condition":["failed"]},"metadata":{"run":"r1","n":1}}');
INSERT INTO "rollouts" VALUES(2,'ro-2','succeeded','val','main',1.79527251485946059226e+09,1.79527251487018322945e+09,'{"rollout_id":"ro-2","input":"second","start_time":1795272514.8594606,"end_time":1795272514.8701832,"mode":"val","resources_id":"main","status":"succeeded","config":{"timeout_seconds":null,"unresponsive_seconds":null,"max_attempts":1,"retry_condition":[]},"metadata":{}}');
INSERT INTO "rollouts" VALUES(3,'ro-3','queuing',NULL,'main',1.79527251485994935034e+09,NULL,'{"rollout_id":"ro-3","input":"third","start_time":1795272514.8599494,"end_time":null,"mode":null,"resources_id":"main","status":"queuing","config":{"timeout_seconds":null,"unresponsive_seconds":null,"max_attempts":1,"retry_condition":[]},"metadata":{}}');
CREATE TABLE span_sequence_ids (
	"key" VARCHAR NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "span_sequence_ids" VALUES('ro-1',2);
INSERT INTO "span_sequence_ids" VALUES('ro-2',1);
CREATE TABLE spans (
	ordinal INTEGER NOT NULL, 
	rollout_id VARCHAR NOT NULL, 
	attempt_id VARCHAR NOT NULL, 
	span_id VARCHAR NOT NULL, 
	sequence_id INTEGER NOT NULL, 
	trace_id VARCHAR NOT NULL, 
	parent_id VARCHAR, 
	name VARCHAR NOT NULL, 
	start_time FLOAT, 
	end_time FLOAT, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT spans_key UNIQUE (rollout_id, attempt_id, span_id)
);
INSERT INTO "spans" VALUES(1,'ro-1','at-fb14bf14','b44fcb142b5f4cf9',1,'9176ae4f5d944d61a9973d952b3193a0',NULL,'call 1',101.0,102.0,'{"rollout_id":"ro-1","attempt_id":"at-fb14bf14","sequence_id":1,"trace_id":"9176ae4f5d944d61a9973d952b3193a0","span_id":"b44fcb142b5f4cf9","parent_id":null,"name":"call 1","status":{"status_code":"OK","description":null},"attributes":{"ids":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,77,78,79,80,81,82,83,84,85,86,87,88,89,90,91,92,93,94,95,96,97,98,99,100,101,102,103,104,105,106,107,108,109,110,111,112,113,114,115,116,117,118,119,120,121,122,123,124,125,126,127,128,129,130,131,132,133,134,135,136,137,138,139,140,141,142,143,144,145,146,147,148,149,150,151,152,153,154,155,156,157,158,159,160,161,162,163,164,165,166,167,168,169,170,171,172,173,174,175,176,177,178,179,180,181,182,183,184,185,186,187,188,189,190,191,192,193,194,195,196,197,198,199,200,201,202,203,204,205,206,207,208,209,210,211,212,213,214,215,216,217,218,219,220,221,222,223,224,225,226,227,228,229,230,231,232,233,234,235,236,237,238,239,240,241,242,243,244,245,246,247,248,249,250,251,252,253,254,255,256,257,258,259,260,261,262,263,264,265,266,267,268,269,270,271,272,273,274,275,276,277,278,279,280,281,282,283,284,285,286,287,288,289,290,291,292,293,294,295,296,297,298,299,300,301,302,303,304,305,306,307,308,309,310,311,312,313,314,315,316,317,318,319,320,321,322,323,324,325,326,327,328,329,330,331,332,333,334,335,336,337,338,339,340,341,342,343,344,345,346,347,348,349,350,351,352,353,354,355,356,357,358,359,360,361,362,363,364,365,366,367,368,369,370,371,372,373,374,375,376,377,378,379,380,381,382,383,384,385,386,387,388,389,390,391,392,393,394,395,396,397,398,399,400,401,402,403,404,405,406,407,408,409,410,411,412,413,414,415,416,417,418,419,420,421,422,423,424,425,426,427,428,429,430,431,432,433,434,435,436,437,438,439,440,441,442,443,444,445,446,447,448,449,450,451,452,453,454,455,456,457,458,459,460,461,462,463,464,465,466,467,468,469,470,471,472,473,474,475,476,477,478,479,480,481,482,483,484,485,486,487,488,489,490,491,492,493,494,495,496,497,498,499,500,501,502,503,504,505,506,507,508,509,510,511,512,513,514,515,516,517,518,519,520,521,522,523,524,525,526,527,528,529,530,531,532,533,534,535,536,537,538,539,540,541,542,543,544,545,546,547,548,549,550,551,552,553,554,555,556,557,558,559,560,561,562,563,564,565,566,567,568,569,570,571,572,573,574,575,576,577,578,579,580,581,582,583,584,585,586,587,588,589,590,591,592,593,594,595,596,597,598,599],"prompt":"You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. ","x":1.5},"events":[],"links":[],"start_time":101.0,"end_time":102.0,"context":{"trace_id":"9176ae4f5d944d61a9973d952b3193a0","span_id":"b44fcb142b5f4cf9","is_remote":false,"trace_state":{}},"parent":null,"resource":{"attributes":{},"schema_url":""}}');
INSERT INTO "spans" VALUES(2,'ro-1','at-fb14bf14','07efe0b56f2a48f7',2,'6d5b8ed32c57437aa423eebb8119dab4','00000000000000aa','call 2',102.0,103.0,'{"rollout_id":"ro-1","attempt_id":"at-fb14bf14","sequence_id":2,"trace_id":"6d5b8ed32c57437aa423eebb8119dab4","span_id":"07efe0b56f2a48f7","parent_id":"00000000000000aa","name":"call 2","status":{"status_code":"OK","description":null},"attributes":{"ids":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,77,78,79,80,81,82,83,84,85,86,87,88,89,90,91,92,93,94,95,96,97,98,99,100,101,102,103,104,105,106,107,108,109,110,111,112,113,114,115,116,117,118,119,120,121,122,123,124,125,126,127,128,129,130,131,132,133,134,135,136,137,138,139,140,141,142,143,144,145,146,147,148,149,150,151,152,153,154,155,156,157,158,159,160,161,162,163,164,165,166,167,168,169,170,171,172,173,174,175,176,177,178,179,180,181,182,183,184,185,186,187,188,189,190,191,192,193,194,195,196,197,198,199,200,201,202,203,204,205,206,207,208,209,210,211,212,213,214,215,216,217,218,219,220,221,222,223,224,225,226,227,228,229,230,231,232,233,234,235,236,237,238,239,240,241,242,243,244,245,246,247,248,249,250,251,252,253,254,255,256,257,258,259,260,261,262,263,264,265,266,267,268,269,270,271,272,273,274,275,276,277,278,279,280,281,282,283,284,285,286,287,288,289,290,291,292,293,294,295,296,297,298,299,300,301,302,303,304,305,306,307,308,309,310,311,312,313,314,315,316,317,318,319,320,321,322,323,324,325,326,327,328,329,330,331,332,333,334,335,336,337,338,339,340,341,342,343,344,345,346,347,348,349,350,351,352,353,354,355,356,357,358,359,360,361,362,363,364,365,366,367,368,369,370,371,372,373,374,375,376,377,378,379,380,381,382,383,384,385,386,387,388,389,390,391,392,393,394,395,396,397,398,399,400,401,402,403,404,405,406,407,408,409,410,411,412,413,414,415,416,417,418,419,420,421,422,423,424,425,426,427,428,429,430,431,432,433,434,435,436,437,438,439,440,441,442,443,444,445,446,447,448,449,450,451,452,453,454,455,456,457,458,459,460,461,462,463,464,465,466,467,468,469,470,471,472,473,474,475,476,477,478,479,480,481,482,483,484,485,486,487,488,489,490,491,492,493,494,495,496,497,498,499,500,501,502,503,504,505,506,507,508,509,510,511,512,513,514,515,516,517,518,519,520,521,522,523,524,525,526,527,528,529,530,531,532,533,534,535,536,537,538,539,540,541,542,543,544,545,546,547,548,549,550,551,552,553,554,555,556,557,558,559,560,561,562,563,564,565,566,567,568,569,570,571,572,573,574,575,576,577,578,579,580,581,582,583,584,585,586,587,588,589,590,591,592,593,594,595,596,597,598,599,7,8],"prompt":"You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. You are a helpful assistant. more"},"events":[],"links":[],"start_time":102.0,"end_time":103.0,"context":{"trace_id":"6d5b8ed32c57437aa423eebb8119dab4","span_id":"07efe0b56f2a48f7","is_remote":false,"trace_state":{}},"parent":{"trace_id":"6d5b8ed32c57437aa423eebb8119dab4","span_id":"00000000000000aa","is_remote":false,"trace_state":{}},"resource":{"attributes":{},"schema_url":""}}');
INSERT INTO "spans" VALUES(3,'ro-2','at-eb99eb95','3ee6493092471d4b',1,'450299650ffdbc73d11d2ee6ec4c52f4',NULL,'agentlightning.annotation',1.79527251487018322945e+09,1.79527251487018322945e+09,'{"rollout_id":"ro-2","attempt_id":"at-eb99eb95","sequence_id":1,"trace_id":"450299650ffdbc73d11d2ee6ec4c52f4","span_id":"3ee6493092471d4b","parent_id":null,"name":"agentlightning.annotation","status":{"status_code":"OK","description":null},"attributes":{"agentlightning.reward.0.name":"primary","agentlightning.reward.0.value":0.5},"events":[],"links":[],"start_time":1795272514.8701832,"end_time":1795272514.8701832,"context":{"trace_id":"450299650ffdbc73d11d2ee6ec4c52f4","span_id":"3ee6493092471d4b","is_remote":false,"trace_state":{}},"parent":null,"resource":{"attributes":{},"schema_url":""}}');
CREATE TABLE workers (
	ordinal INTEGER NOT NULL, 
	worker_id VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	last_heartbeat_time FLOAT, 
	last_dequeue_time FLOAT, 
	last_busy_time FLOAT, 
	last_idle_time FLOAT, 
	current_rollout_id VARCHAR, 
	current_attempt_id VARCHAR, 
	payload TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	CONSTRAINT workers_key UNIQUE (worker_id)
);
INSERT INTO "workers" VALUES(1,'worker-1','idle',NULL,1.79527251486032819747e+09,1.79527251486032819747e+09,1.79527251486883330337e+09,NULL,NULL,'{"worker_id":"worker-1","status":"idle","heartbeat_stats":null,"last_heartbeat_time":null,"last_dequeue_time":1795272514.8603282,"last_busy_time":1795272514.8603282,"last_idle_time":1795272514.8688333,"current_rollout_id":null,"current_attempt_id":null}');
INSERT INTO "workers" VALUES(2,'worker-2','idle',NULL,1.79527251486967515947e+09,1.79527251486967515947e+09,1.79527251487018322945e+09,NULL,NULL,'{"worker_id":"worker-2","status":"idle","heartbeat_stats":null,"last_heartbeat_time":null,"last_dequeue_time":1795272514.8696752,"last_busy_time":1795272514.8696752,"last_idle_time":1795272514.8701832,"current_rollout_id":null,"current_attempt_id":null}');
CREATE INDEX rollouts_start_time ON rollouts (start_time);
CREATE INDEX rollouts_status ON rollouts (status);
CREATE INDEX attempts_sequence ON attempts (rollout_id, sequence_id);
CREATE INDEX spans_sequence ON spans (rollout_id, sequence_id);
CREATE INDEX resources_update_time ON resources (update_time);
CREATE INDEX ix_rollout_queue_value ON rollout_queue (value);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('rollout_queue',4);
COMMIT;
