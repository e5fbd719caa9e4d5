/*
 * What the tracer and the code that it puts into the target share: the control pages, the rings and the
 * records in them. This header is compiled for both sides, so it uses nothing but fixed-size integers.
 *
 *	code     r-x  private: the recorder, position independent         TM_RECORDER_CODE_SIZE bytes
 *	control  rw-  private, directly behind the code, wiped on fork     struct tm_control
 *	guard    rw-  private, directly behind control                      struct tm_guard (guard.h)
 *	shared   rw-  a memory file that the tracer maps too, not inherited on fork:
 *	              struct tm_shared | ring heads | rings of TM_RING_SIZE bytes | frames of each ring's
 *thread
 *
 * A thread writes to a ring of its own, so that reserving a place is one plain instruction (xadd), which no
 * signal handler can come between. A record is committed by storing its mark last: the mark names the
 * position, so that what stood there a lap before is never taken for it. Positions count bytes since the
 * beginning and never wrap; the place in the ring is position % TM_RING_SIZE.
 *
 * A record never crosses the ring's end: one that would is turned into a filler. Before reserving, a thread
 * makes sure of TM_RING_SLACK bytes more than it needs: signal handlers that come between take from those.
 * A full ring makes the thread wait, at most control.patience; then recording ends for good in the whole
 * process, and shared.lost says so. The same words end it when the tracer goes away. Where a thread is kept
 * from committing a record by handlers that record more than a ring holds, the room goes round without that
 * record's place (tm_ring_head.left_out).
 *
 * Order between rings is that of the time stamp counter: a block's allocation is stamped when the allocator
 * has returned, its free before the allocator is called.
 */
#ifndef TM_RECORDER_SHARED_H
#define TM_RECORDER_SHARED_H

#include <stdint.h>

#define TM_RECORDER_CODE_SIZE 32768u
#define TM_RECORDER_MAGIC     "tmtrace record2" /* with its NUL the first 16 bytes of the code */

#define TM_RING_SIZE   (UINT64_C(1) << 20)
#define TM_RING_SLACK  (UINT64_C(64) << 10)
#define TM_RINGS       1024u		    /* threads that record at a time; a power of two */
#define TM_RECORD_UNIT 16u		    /* positions and sizes of records are multiples of it */
#define TM_RECORD_MAX  (UINT64_C(16) << 10) /* but for fillers */
#define TM_LEFT_OUT    8u		    /* places that a ring goes round without */

/* ---- records ---- */

enum tm_record_kind {
	TM_RECORD_FILLER = 1,
	TM_RECORD_ALLOCATE,	/* struct tm_record_block, behind the call */
	TM_RECORD_FREE,		/* struct tm_record_free, before the call */
	TM_RECORD_RESIZE_BEGIN, /* struct tm_record_free, before the call */
	TM_RECORD_RESIZE_END,	/* struct tm_record_block, behind the call; block 0: it failed, the old one
				   stays */
	TM_RECORD_FAIL,		/* struct tm_record_header */
	TM_RECORD_OBJECT,	/* struct tm_record_block: block is an object, size means nothing */
	TM_RECORD_CODE,	   /* struct tm_record_code: a code object, before the first record that names it */
	TM_RECORD_TRACK,   /* struct tm_record_block: somebody tells tracemalloc of memory; old: the domain */
	TM_RECORD_UNTRACK, /* struct tm_record_free: and that it is gone */

	/* Native allocators. */
	TM_RECORD_NATIVE_ALLOCATE,   /* struct tm_record_native, behind the call */
	TM_RECORD_NATIVE_RESIZE_END, /* the same; block 0: no block was returned */
	TM_RECORD_NATIVE_FAIL,	     /* the same: no block was returned */
	TM_RECORD_NATIVE_FRAMES,     /* the same: frames alone, of a stack that is too deep for one record */
	TM_RECORD_NATIVE_STACK, /* the same, with TM_RECORD_NO_FRAMES: the tracer is asked for the rows of
				   this stack */
	TM_RECORD_NATIVE_REMEMBERED, /* struct tm_record_remembered: as NATIVE_ALLOCATE, by a stack that was
					told before */
	TM_RECORD_NATIVE_RESIZE_REMEMBERED, /* the same: as NATIVE_RESIZE_END, with a block */
	TM_RECORD_NATIVE_FREE,		    /* struct tm_record_free, before the call */
	TM_RECORD_NATIVE_RESIZE_BEGIN,	    /* struct tm_record_free, before the call */
	TM_RECORD_NATIVE_RESIZE_LEFT, /* struct tm_record_free: the resize that has begun last with this block
					 has ended, and was nobody's, or was made by another call of an
					 allocator */
	TM_RECORD_NATIVE_RESIZE_GONE, /* struct tm_record_free: it has ended, its block is gone, and the new
					 one is not in the sample */
	TM_RECORD_LOADER,	      /* struct tm_record_header: the dynamic linker has changed its list */
};

/* Flags of a record. LOOK: the thread waits until the tracer has looked. NO_FRAMES: the recorder cannot read
   this thread's stack, the tracer does as it looks. NESTED, of NATIVE_FREE: perhaps made by another call of
   an allocator, so that it concerns known blocks only. ANSWERED: the tracer has looked; it alone sets it, in
   a record that is there already. */
#define TM_RECORD_LOOK	    1u
#define TM_RECORD_NO_FRAMES 2u
#define TM_RECORD_NESTED    4u
#define TM_RECORD_ANSWERED  8u

struct tm_record_header {
	uint32_t place; /* position / TM_RECORD_UNIT: stored last */
	uint8_t kind, flags;
	uint16_t units; /* of the whole record */
	uint64_t time;	/* time stamp counter; 0: before all that have one */
};

struct tm_record_free {
	struct tm_record_header header;
	uint64_t block;
	uint64_t domain; /* UNTRACK */
};

/* Of a Python stack: the code object and where in it, most recent first. */
struct tm_record_frame {
	uint64_t code;
	uint64_t instruction; /* as the frame has it: a pointer from 3.11 on, else an index; with
				 TM_RECORD_LINE a line */
};
#define TM_RECORD_LINE	     (UINT64_C(1) << 63)
#define TM_RECORD_FRAMES_MAX 1000u /* control.python.nframe is at most that */

/* A copy of a code object and of what it is told by: its fields, file name, name and line table, each piece
   as it stands in the target's memory. */
struct tm_record_code {
	struct tm_record_header header;
	uint64_t code;
	uint64_t piece_count;
	uint8_t pieces[]; /* of struct tm_record_piece, one behind the other */
};

struct tm_record_piece {
	uint64_t address, size; /* bytes */
	uint8_t bytes[];	/* padded to a multiple of 8 */
};

struct tm_record_block {
	struct tm_record_header header;
	uint64_t block, size;
	uint64_t old; /* RESIZE_END; TRACK: the domain */
	uint32_t frame_count, frame_total;
	struct tm_record_frame frames[];
};

/*
 * A native call's stack, as what has changed since the thread's last walk: its `kept`
 * outermost frames are the same, below them stand `fresh` others, most recent first, as return addresses.
 * With TM_RECORD_NO_FRAMES `fresh` counts registers, in the order of enum tm_record_register, and no record
 * before or behind is concerned.
 */
struct tm_record_native {
	struct tm_record_header header;
	uint64_t block, size;
	uint64_t old;	   /* RESIZE_END; else pc in the outermost operator new that made the call, 0: none */
	uint16_t function; /* the pad's number */
	uint16_t number;   /* the stack's, of TM_REMEMBERED, by which it may be told from now on; 0: none */
	uint16_t kept, fresh;
	uint64_t words[];
};

struct tm_record_remembered {
	struct tm_record_header header;
	uint64_t block;
	uint32_t size;
	uint32_t number; /* the stack's, as the ring's last record with this number had it */
	uint64_t old;	 /* RESIZE_REMEMBERED: the old block; else it is not there */
};

/* The caller's registers, behind the call. */
enum tm_record_register {
	TM_RECORD_PC,
	TM_RECORD_SP,
	TM_RECORD_RBP,
	TM_RECORD_RBX,
	TM_RECORD_R12,
	TM_RECORD_R13,
	TM_RECORD_R14,
	TM_RECORD_R15,
	TM_RECORD_REGISTERS
};

/* ---- native pads ---- */

/* The word that a pad has on top of the stack during its call; the call's arguments lie above it: size, count
   or place of the result; of a resize old block, size, count. */
#define TM_PAD_WORDS(what) ((what)&0xff) /* on the stack, this one included */
#define TM_PAD_COUNTED	   0x100u
#define TM_PAD_OUT	   0x200u /* the call returns an int, and its block where the second argument says */
#define TM_PAD_RESIZES	   0x400u
#define TM_PAD_WAY_OUT                                                                                       \
	0x800u /* the pad stands where the function returns; the size is what its entry has noted */
#define TM_PAD_FUNCTION(what) ((uint32_t)(what) >> 16)
#define TM_PAD_FUNCTIONS      0x8000u

/* ---- native stacks ---- */

#define TM_FRAMES_MAX 4096u /* of a stack that the recorder reads by itself */
#define TM_FRESH_MAX  2000u /* of a record */

/*
 * How to pass a frame, by the return address into it: what the tracer has made of the CFI there. The caller's
 * return address is at CFA - 8. The tracer alone writes rows; a row's return address is stored last, and
 * taken away first.
 */
struct tm_recorder_row {
	uint64_t return_address; /* 0: free */
	uint64_t rule;		 /* tm_row_rule */
};
#define TM_ROW_WAYS	 4u	/* a cache line */
#define TM_ROW_NEAR_SETS 4096u	/* looked at first: 256 KiB at most, which stay in the caches */
#define TM_ROW_FAR_SETS	 65536u /* where there is no room in those */

enum tm_row_kind {
	TM_ROW_STEP = 1,
	TM_ROW_OUTERMOST, /* no frame above it */
	TM_ROW_LOOK,	  /* the tracer alone can pass it */
};

/* Flags of a rule. */
#define TM_ROW_CFA_FROM_FP UINT64_C(8)	/* else from the stack pointer */
#define TM_ROW_FP_SAVED	   UINT64_C(16) /* at CFA + its offset; else it keeps its value */
#define TM_ROW_IN_CALL	   UINT64_C(32) /* code of an allocator function, or of a pad that waits for one */
#define TM_ROW_BY_FP	   UINT64_C(64) /* no CFI: passed by its frame record; outermost where fp is 0 */
#define TM_ROW_OFFSET_MAX  (1 << 23)	/* of either offset, in bytes */
#define TM_ROW_RECORD_MAX  (UINT64_C(1) << 20) /* bytes from a frame's lower end to its frame record */

static inline uint64_t tm_row_rule(enum tm_row_kind kind, uint64_t flags, int64_t cfa_offset,
				   int64_t fp_offset)
{
	return kind | flags | ((uint64_t)cfa_offset & 0xffffff) << 8 | ((uint64_t)fp_offset & 0xffffff) << 32;
}

static inline enum tm_row_kind tm_row_kind(uint64_t rule)
{
	return (enum tm_row_kind)(rule & 7);
}

static inline int64_t tm_row_cfa_offset(uint64_t rule)
{
	return (int64_t)(rule << 32) >> 40;
}

static inline int64_t tm_row_fp_offset(uint64_t rule)
{
	return (int64_t)(rule << 8) >> 40;
}

/* Returns into neighbouring code share a set. */
static inline uint32_t tm_row_near_set(uint64_t return_address)
{
	return (uint32_t)((return_address >> 6) * UINT64_C(0x9e3779b97f4a7c15) >> 52);
}

static inline uint32_t tm_row_far_set(uint64_t return_address)
{
	return (uint32_t)(return_address * UINT64_C(0x9e3779b97f4a7c15) >> 48);
}

/* A frame of a thread's stack as its last walk had it. Its return address, the next frame's pc, is at cfa
 * - 8. */
struct tm_recorder_frame {
	uint64_t pc, cfa, fp;
	uint64_t rule; /* and what follows */
};
#define TM_FRAME_FP_MATTERS  (UINT64_C(1) << 63) /* frames above it are found by its fp, */
#define TM_FRAME_FP_RESTORED (UINT64_C(1) << 62) /* and those above this one by what it has saved */

/*
 * Whole stacks that a thread's calls were made from: which one it is the next time is guessed, and seen by
 * comparing its words, each of which can be loaded without having waited for another one (remembered.h). The
 * thread's own affair. Where there is no room for another one, all are forgotten.
 */
#define TM_REMEMBERED	    4096u  /* their numbers are from 1 on */
#define TM_REMEMBERED_ROOM  65536u /* of 8 bytes, for all of them */
#define TM_REMEMBERED_NEWS  2u	   /* calls of operator new that one has */
#define TM_REMEMBERED_WORDS 4096u  /* that one has at most */
#define TM_REMEMBERED_SETS  1024u
#define TM_REMEMBERED_WAYS  8u
#define TM_GUESSES	    1024u

struct tm_remembered_stack {
	uint64_t hash;			   /* of its frames */
	uint64_t pc, cfa, fp;		   /* of the call */
	uint64_t news[TM_REMEMBERED_NEWS]; /* CFAs of operator new, as in tm_recorder_stack.news */
	uint16_t number, count;		   /* of words, a multiple of TM_REMEMBERED_STEP */
	uint8_t new_count, fp_matters;
	uint16_t unused;
	/* What the words of the stack must be; behind them as many uint16_t: where each stands, in words
	   above the CFA. */
	uint64_t words[];
};
#define TM_REMEMBERED_STEP 4u

/* By a hash of what is looked for: which stack it was the last time. */
struct tm_stack_guess {
	uint32_t hash;	/* upper half of the stack's */
	uint32_t place; /* where it is remembered; 0: it is not */
};

/* ---- the memory file ---- */

/* Code objects that the tracer knows: sets of eight by a hash of the address. The recorder adds what it has
   recorded and takes out what is freed; the tracer adds what it has looked at itself. */
#define TM_CODE_SETS 8192u
#define TM_CODE_WAYS 8u
#define TM_CODE_BITS (1u << 18) /* of a filter before the sets: whether a code object may hash there */

static inline uint32_t tm_code_set(uint64_t code)
{
	return (uint32_t)((code >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 51);
}

static inline uint32_t tm_code_bit(uint64_t code)
{
	return (uint32_t)((code >> 4) % TM_CODE_BITS);
}

struct tm_shared {
	uint32_t enabled; /* 0: whoever waits goes on; written by the tracer, its watchdog, and who gave up */
	uint32_t lost;	  /* recording ended because the tracer did not come in time */
	uint64_t lost_time;			   /* when, by the time stamp counter; not 0 */
	_Alignas(64) uint64_t used[TM_RINGS / 64]; /* a bit for each ring that was ever taken, set before its
						      first record */
	_Alignas(64) uint64_t doorbell;		   /* changes when a thread begins to wait for a look */
	uint32_t asleep; /* 1: the tracer sleeps, and who waits for it makes this 0 and wakes it (futex(2)) */
	_Alignas(64) uint64_t codes[TM_CODE_SETS][TM_CODE_WAYS];
	uint64_t code_filter[TM_CODE_BITS / 64];
	/* Rises when code was unmapped: frames of before are not believed. The tracer's. */
	_Alignas(64) uint64_t generation;
	_Alignas(4096) struct tm_recorder_row near_rows[TM_ROW_NEAR_SETS][TM_ROW_WAYS];
	struct tm_recorder_row far_rows[TM_ROW_FAR_SETS][TM_ROW_WAYS];
};

/* A ring's words, the writer's and the reader's on lines of their own. */
struct tm_ring_head {
	_Alignas(64) uint64_t head; /* position behind the last reserved byte; the thread's */
	uint64_t abandoned; /* records before it that are not committed never will be: their thread has jumped
			       away */
	uint64_t thread_pointer;    /* the thread's */
	_Alignas(64) uint64_t tail; /* what lies before it was read; the tracer's */
	/* The thread's own stack, of which every byte from its stack pointer up to stack_high can be read as
	   long as the pointer is not below stack_low. The tracer's, changed while the thread waits for a
	   look: the thread may jump out of that, so stack_high is 0 until both are right. */
	uint64_t stack_low, stack_high;
	/* Places before the tail that a record may still be written to, so that nothing else may on any later
	   lap: tm_left_out(), or 0. The tracer's, there before the tail goes past one. */
	uint64_t left_out[TM_LEFT_OUT];
};

/* A place of less than a ring's size: where it starts, and its size. */
static inline uint64_t tm_left_out(uint64_t start, uint64_t size)
{
	return start / TM_RECORD_UNIT << 16 | size / TM_RECORD_UNIT;
}

static inline uint64_t tm_left_out_start(uint64_t left_out)
{
	return (left_out >> 16) * TM_RECORD_UNIT;
}

static inline uint64_t tm_left_out_size(uint64_t left_out)
{
	return (left_out & 0xffff) * TM_RECORD_UNIT;
}

static inline int tm_left_out_covers(uint64_t left_out, uint64_t position)
{
	return position - tm_left_out_start(left_out) < tm_left_out_size(left_out);
}

/* Frames of a thread, its own affair: [0] stands for the end of the stack, the outermost is [1]. Behind them
   as many more, for the walk, and the stacks that it remembers. */
struct tm_ring_frames {
	struct tm_recorder_frame known[TM_FRAMES_MAX + 1], walked[TM_FRAMES_MAX + 1];
	uint64_t hashes[TM_FRAMES_MAX + 1]; /* of each known frame and those above it */
	uint64_t forgotten;		    /* tm_recorder_stack.forgotten when the rest was right */
	uint32_t remembered, used;	    /* stacks and room, with place 0 */
	uint64_t crowded;		    /* not 0: there was no room for another one */
	_Alignas(64) struct tm_stack_guess
		guesses[2][TM_GUESSES]; /* behind the last stack, behind the last two */
	struct tm_stack_guess sets[TM_REMEMBERED_SETS][TM_REMEMBERED_WAYS]; /* all, by their own hashes */
	_Alignas(64) uint64_t room[TM_REMEMBERED_ROOM];
	uint16_t places[TM_REMEMBERED_WORDS]; /* of what is being remembered */
};

#define TM_SHARED_HEADS	 ((sizeof(struct tm_shared) + 4095) / 4096 * 4096)
#define TM_SHARED_RINGS	 (TM_SHARED_HEADS + (TM_RINGS * sizeof(struct tm_ring_head) + 4095) / 4096 * 4096)
#define TM_SHARED_FRAMES (TM_SHARED_RINGS + TM_RINGS * TM_RING_SIZE)
#define TM_SHARED_SIZE	 (TM_SHARED_FRAMES + (TM_RINGS * sizeof(struct tm_ring_frames) + 4095) / 4096 * 4096)

/* ---- the control pages ---- */

/* How code that runs in a thread finds this thread's PyThreadState while it holds the interpreter's lock. */
enum tm_state_kind {
	TM_STATE_UNKNOWN,
	TM_STATE_GLOBAL, /* up to 3.11: the word at state_place is the lock's owner */
	TM_STATE_THREAD, /* the word at thread pointer + state_place (an executable's thread-local variable)
			  */
	TM_STATE_MODULE, /* a library's thread-local variable: state_place in the block of module state_module
			    (glibc's dtv, psABI "general dynamic") */
};

/* What must be known of an interpreter to read its frames: struct tm_python_layout's fields of these names.
 */
struct tm_recorder_python {
	uint32_t minor;
	uint32_t state_kind;
	uint64_t state_place, state_module;
	uint32_t nframe; /* frames that a record has at most */
	uint16_t thread_id, thread_frame, has_cframe, cframe_frame;
	uint16_t frame_code, frame_back, frame_instruction, frame_lineno, frame_trace, frame_owner;
	uint16_t code_instructions, code_first_traceable;
	uint16_t code_size; /* bytes of a code object that are worth a copy */
	uint16_t code_filename, code_name, code_lines;
	uint16_t unicode_length, unicode_state, unicode_ascii, unicode_compact;
	uint16_t bytes_size, bytes_data;
};

/* A call whose beginning was seen. It is over when another return address stands at its CFA - 8, or when the
   thread is above it. */
struct tm_recorder_call {
	uint64_t cfa, return_address;
	uint64_t value;
	uint64_t told; /* enum tm_told: by what, if not by a call that is made inside */
};

enum tm_told {
	TM_TOLD_INSIDE,
	TM_TOLD_BY_STOP,   /* the tracer has seen its entry, and will see its end */
	TM_TOLD_AT_END,	   /* by a pad at its way out */
	TM_TOLD_BY_RETURN, /* it was to be told at its end, and has stopped before: the tracer will see its
			      return */
};

/* What the recorder knows of a thread's native stack. */
struct tm_recorder_stack {
	uint32_t count; /* of its ring's frames that are known to the tracer as well */
	uint32_t new_count;
	uint64_t generation, low, high; /* as they were when the frames were walked */
	uint64_t forgotten;		/* how often what is remembered became wrong; from 1 on */
	uint64_t last[2];		/* hashes of the last calls' stacks */
	uint64_t freed, freed_cfa;	/* the last block that was freed, and by which call */
	struct tm_recorder_call resize; /* the outermost that is going on, and its block; cfa 0: none */
	/* Calls of operator new that may be going on, innermost last, and the sizes that they were asked for.
	 */
	struct tm_recorder_call news[16];
};

/* Is a call with one CFA over where another one begins with the other? On the thread's own stack, [low,
   high), if it is not farther up; on another one, a signal handler's, if the thread is back on its own. */
static inline int tm_call_is_over(const struct tm_recorder_stack *stack, uint64_t cfa, uint64_t beginning)
{
	int own = cfa - 8 >= stack->low && cfa <= stack->high,
	    begins_on_own = beginning - 8 >= stack->low && beginning <= stack->high;

	return own == begins_on_own ? cfa <= beginning : begins_on_own;
}

/* A thread that records: entry i has ring i. */
struct tm_recorder_thread {
	_Alignas(64) uint64_t thread_pointer; /* 0: never used; TM_THREAD_GONE: free again */
	/* The stack pointer of the outermost recorder frame; 0: the thread is not inside. It is stored before
	   `enabled` is loaded, but x86 makes stores visible late: who has cleared `enabled` believes a 0 only
	   when every thread has passed a barrier since (was stopped, or membarrier(2)). And it may stay for
	   ever: a thread that has jumped out of the recorder, and was only farther down since, is not inside
	   any more. */
	uint64_t inside;
	uint64_t ring; /* addresses of its struct tm_ring_head (0: shared.used has no bit for it yet), */
	uint64_t bytes, frames; /* of its ring, and of its struct tm_ring_frames */
	uint64_t room;		/* the position up to which its ring was seen to be free */
	uint64_t state; /* the PyThreadState that the thread had when it last held the interpreter's lock */
	struct tm_recorder_stack stack;
	int64_t sample_left; /* bytes until the next call is in the sample */
	uint64_t random;     /* 0: not begun */
};
/* Where the entry of a thread is looked for first. */
static inline uint32_t tm_thread_slot(uint64_t thread_pointer)
{
	return (uint32_t)((thread_pointer >> 6) * UINT64_C(0x9e3779b97f4a7c15) >> 40) % TM_RINGS;
}

#define TM_THREAD_GONE                                                                                       \
	1u /* only while no thread with this thread pointer lives: the C library reuses them                 \
	    */

/*
 * The live blocks of the sample, so that frees of others are no records: sets by a hash of the address. What
 * does not fit is lost to the set, all of whose frees are recorded from then on.
 */
#define TM_SAMPLED_SETS 8192u
#define TM_SAMPLED_WAYS 7u

struct tm_sampled_set {
	_Alignas(64) uint64_t blocks[TM_SAMPLED_WAYS];
	uint64_t overflowed;
};

static inline uint32_t tm_sampled_set(uint64_t block)
{
	return (uint32_t)((block >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 51);
}

/* What setup.c makes, and how far it is. */
enum tm_setup_stage {
	TM_SETUP_MADE = 1, /* all or what could be; now the tracer opens the file, */
	TM_SETUP_CLOSED,   /* and it is closed: waits to be taken away */
};

enum tm_setup_call {
	TM_SETUP_WIPE = 1,
	TM_SETUP_FILE,
	TM_SETUP_MAP,
	TM_SETUP_UNLOCK,
	TM_SETUP_OPEN,
	TM_SETUP_NO_FORK,
	TM_SETUP_NO_DUMP,
};

/* Executable pages that the target maps besides, anonymous and private. */
struct tm_setup_pages {
	uint64_t place, size; /* size 0: nothing more */
	int64_t result;	      /* the place, if they are there; else not above 0 */
};
#define TM_SETUP_PAGES 8u

struct tm_setup {
	uint32_t stage, go; /* enum tm_setup_stage: reached; to go on from, which the tracer writes */
	uint32_t failed;    /* enum tm_setup_call; 0: none */
	int64_t error;	    /* errno of it */
	int64_t file,
		shared; /* the memory file's descriptor, and where it is mapped; negative: they are not */
	struct tm_setup_pages pages[TM_SETUP_PAGES];
};

struct tm_control {
	char magic[16];
	uint32_t enabled;	/* 0 (also: wiped, in a forked child): record nothing */
	uint32_t may_sleep;	/* threads may call sched_yield, nanosleep, futex and sigaltstack */
	uint32_t stamps;	/* records have times; 0: one thread runs alone, and theirs is 0 */
	uint64_t patience;	/* how long a thread waits at most, in ticks of the time stamp counter, while
				   it runs */
	uint64_t shared;	/* address of struct tm_shared in the target */
	uint64_t unringed;	/* events of threads for which no ring was left */
	uint64_t crowded_until; /* by the time stamp counter: who waits sleeps, and does not yield */
	struct tm_setup setup;
	struct tm_recorder_python python;
	/* The block that was allocated last under the interpreter's lock, and by what: an object that is made
	   in it at once needs no record. */
	uint64_t last_block, last_size, last_code, last_instruction;
	uint32_t last_total;
	struct tm_recorder_thread threads[TM_RINGS];
	/* Native calls: a call is in the sample by chance, on average once in so many bytes (a Poisson
	   process by bytes); 0: all are. */
	uint64_t sample;
	struct tm_sampled_set sampled[TM_SAMPLED_SETS];
};

#define TM_CONTROL_SIZE ((sizeof(struct tm_control) + 4095) / 4096 * 4096)

/* The entries, whose offsets (uint32_t) stand behind the magic. */
enum tm_recorder_entry {
	TM_ENTRY_SLOT_ENTER,	 /* (block, slot): before a free or a resize */
	TM_ENTRY_SLOT_LEAVE,	 /* (block, size, old, slot) -> block: behind a call */
	TM_ENTRY_SLOT_REFERENCE, /* (object): memory has become an object */
	/* (the call's first three arguments, guard) -> struct tm_guard_answer (guard.h) */
	TM_ENTRY_TRACK,
	TM_ENTRY_UNTRACK,
	TM_ENTRY_NEW_REFERENCE,
	TM_ENTRY_START,
	TM_ENTRY_STOP,
	TM_ENTRY_IS_TRACING,
	TM_ENTRY_FINALIZE,
	TM_ENTRY_SWITCHED, /* (guard): behind a call of start or stop that went on */
	/* Of the pads of arch/record_pad.h; they keep all registers. */
	TM_ENTRY_NATIVE_FREE,	  /* (block): before the call */
	TM_ENTRY_NATIVE_NEW,	  /* (size): before the call, which is told by one that is made inside */
	TM_ENTRY_NATIVE_NEW_ENDS, /* (size): before a call that is told at its end */
	TM_ENTRY_NATIVE_LOADER,	  /* before the call */
	TM_ENTRY_NATIVE_RESIZE,	  /* before the call, with the pad's words on the stack */
	TM_ENTRY_NATIVE_LEAVE, /* behind the call, with its result in rax and the pad's words on the stack */
	TM_ENTRY_SETUP,	       /* (ticks): setup.c; what is behind the code need not be writable yet */
	TM_ENTRY_SETUP_RETURN, /* where that returns to */
	TM_ENTRY_COUNT,
};

#endif
