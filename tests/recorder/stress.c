#include "recorder/stress.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "recorder/native_stack.h"

#define ADDRESSES 4096u
#define STREAMS	  4096u			/* of handlers: one a thread */
#define FIRST	  UINT64_C(0x100000000) /* the addresses' blocks */
#define STREAM	  UINT64_C(0x200000000) /* a handler's numbers: STREAM + stream << 24 + number << 4 */
#define STACK	  (256u << 10)

/* An address, as the threads know it (under `taken`), and as the reader does. */
struct address {
	_Alignas(64) bool taken;
	bool live;
	uint64_t version;
	enum { DEAD, LIVE, RESIZING } seen;
	uint64_t seen_version;
};

struct run {
	struct plant *plant;
	const struct stress *stress;
	struct stress_result *result;
	struct address addresses[ADDRESSES];
	uint64_t streams[STREAMS]; /* the next number that the reader must see */
	struct plant_code_object *codes;
	uint64_t calls, handler_calls, jumps;
	struct native_reader native;
	bool stop;
};

struct worker {
	struct run *run;
	pthread_t thread;
	unsigned index;
	uint64_t random, calls, pointer;
	volatile uint64_t handler_calls;
	uint8_t *memory; /* stack | signal stack */
	struct plant_frame frame;
	struct native_stack *native;
	uint64_t cfa;		       /* of its next native call */
	volatile uint64_t jumps, side; /* side: the next number of the calls that are jumped out of */
	volatile bool jumpable;
	sigjmp_buf outside;
};

static _Thread_local struct worker *own_worker;

static uint64_t next_random(uint64_t *state) /* xorshift64 */
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- the threads ---- */

/* Some blocks are made by operator new. */
static bool is_by_new(uint64_t block, uint64_t size)
{
	return block >= FIRST && block < STREAM && size % 8 == 1;
}

/* A native call's stack is told by its block and its size. Most are one of a few, which come again and again
   in the same order. */
static uint64_t stack_number(uint64_t block, uint64_t size)
{
	uint64_t number = (block >> 4) * 31 + size;

	if (number / 128 % 4)
		number %= 5;
	return number | (is_by_new(block, size) ? NATIVE_BY_NEW : 0);
}

static void tell_begin(struct worker *worker, uint64_t block, uint64_t size, uint64_t slot)
{
	if (!worker->run->stress->native) {
		worker->run->plant->enter(block, slot);
		return;
	}
	worker->cfa = native_stack_set(worker->native, false, stack_number(block, size));
	if (slot == PLANT_RAW_FREE)
		tm_native_free(block, worker->cfa);
	else
		native_resize(worker->cfa, block, size);
}

static void tell_end(struct worker *worker, uint64_t block, uint64_t size, uint64_t old, uint64_t slot)
{
	if (!worker->run->stress->native) {
		worker->run->plant->leave(block, size, old, slot);
		return;
	}
	if (!old)
		worker->cfa = native_stack_set(worker->native, false, stack_number(block, size));
	if (!old && is_by_new(block, size))
		native_leave_new(worker->cfa, block, size);
	else
		native_leave(worker->cfa, block, size, old);
	if (size % 8 == 2)
		native_leave_inner(worker->cfa, block, size);
}

static void resize(struct worker *worker, struct address *address, uint64_t block)
{
	worker->frame.instruction = (int32_t)++address->version;
	tell_begin(worker, block, address->version, PLANT_RAW_REALLOC);
	tell_end(worker, block, address->version, block, PLANT_RAW_REALLOC);
	worker->calls += 2;
}

static void call(struct worker *worker, struct address *address, uint64_t block, uint64_t random)
{
	if (random % 64 == 0) {
		tell_end(worker, 0, 1, 0, PLANT_RAW_MALLOC);
	} else if (!address->live) {
		worker->frame.instruction = (int32_t)++address->version;
		tell_end(worker, block, address->version, 0, PLANT_RAW_MALLOC);
		address->live = true;
	} else if (random % 4 == 1) {
		resize(worker, address, block);
		return;
	} else {
		tell_begin(worker, block, address->version, PLANT_RAW_FREE);
		address->live = false;
	}
	worker->calls++;
}

static void step(struct worker *worker)
{
	struct run *run = worker->run;
	uint64_t random = next_random(&worker->random) >> 8;
	unsigned which = (unsigned)(random % run->stress->addresses);
	struct address *address = &run->addresses[which];

	if (__atomic_exchange_n(&address->taken, true, __ATOMIC_ACQUIRE))
		return;
	random >>= 16;
	worker->frame.code = (uint64_t)&run->codes[random % run->stress->codes];
	call(worker, address, FIRST + which * 64, random >> 16);
	__atomic_store_n(&address->taken, false, __ATOMIC_RELEASE);
}

static void tell_in_handler(struct worker *worker, uint64_t block)
{
	uint64_t cfa;

	if (!worker->run->stress->native) {
		if (worker->handler_calls & 1)
			worker->run->plant->enter(block, PLANT_RAW_FREE);
		else
			worker->run->plant->leave(block, 1, 0, PLANT_RAW_MALLOC);
		return;
	}
	cfa = native_stack_set(worker->native, true, stack_number(block, 1));
	if (worker->handler_calls & 1)
		tm_native_free(block, cfa);
	else
		native_leave(cfa, block, 1, 0);
}

static void on_timer(int signal)
{
	struct worker *worker = own_worker;

	(void)signal;
	if (worker->run->stress->jump_us) {
		if (worker->jumpable)
			siglongjmp(worker->outside, 1);
		return;
	}
	tell_in_handler(worker, STREAM + ((uint64_t)worker->index << 24) + (worker->handler_calls << 4));
	worker->handler_calls = worker->handler_calls + 1;
}

/* Calls that a handler may jump out of, each with a number of its own: it is recorded once, or not at all. */
static void call_on_the_side(struct worker *worker)
{
	if (sigsetjmp(worker->outside, 1)) {
		worker->jumpable = false;
		worker->jumps = worker->jumps + 1;
		return;
	}
	worker->jumpable = true;
	for (unsigned i = 0; i < 50; i++) {
		uint64_t block = STREAM + ((uint64_t)worker->index << 24) + (worker->side << 4);

		worker->side = worker->side + 1;
		worker->cfa = native_stack_set(worker->native, false, stack_number(block, i));
		native_leave(worker->cfa, block, i, 0);
	}
	worker->jumpable = false;
}

static timer_t start_timer(unsigned us)
{
	struct itimerspec every = {{0, us * 1000}, {0, us * 1000}};
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
	timer_t timer;

	event._sigev_un._tid = gettid();
	need(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	need(!timer_settime(timer, 0, &every, NULL));
	return timer;
}

/* No handler comes any more. */
static void stop_timer(timer_t timer)
{
	sigset_t alarm;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	need(!timer_delete(timer));
	need(!pthread_sigmask(SIG_BLOCK, &alarm, NULL));
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	const struct stress *stress = worker->run->stress;
	stack_t stack = {.ss_sp = worker->memory + STACK, .ss_size = STACK};
	timer_t timer = 0;

	own_worker = worker;
	worker->pointer = plant_thread_pointer();
	plant_enter_interpreter(&worker->frame);
	if (stress->signal_stacks)
		need(!sigaltstack(&stack, NULL));
	if (stress->native) { /* the tracer finds out where the stack is */
		tell_end(worker, 0, 1, 0, PLANT_RAW_MALLOC);
		worker->calls++;
	}
	if (stress->handler_us || stress->jump_us)
		timer = start_timer(stress->handler_us ? stress->handler_us : stress->jump_us);
	while (worker->calls < stress->calls) {
		step(worker);
		if (stress->jump_us && worker->calls % 16 == 0)
			call_on_the_side(worker);
	}
	if (stress->handler_us || stress->jump_us)
		stop_timer(timer);
	if (stress->jump_us)
		call_on_the_side(worker); /* the last one is given */
	__atomic_fetch_add(&worker->run->calls, worker->calls + worker->side, __ATOMIC_RELAXED);
	__atomic_fetch_add(&worker->run->jumps, worker->jumps, __ATOMIC_RELAXED);
	__atomic_fetch_add(&worker->run->handler_calls, worker->handler_calls, __ATOMIC_RELAXED);
	return NULL;
}

/* ---- the reader ---- */

__attribute__((format(printf, 3, 4))) static void
wrong(struct run *run, const struct tm_record_header *record, const char *format, ...)
{
	char what[100];
	va_list arguments;

	if (run->result->wrong++)
		return;
	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	snprintf(run->result->first_wrong, sizeof(run->result->first_wrong), "record %llu, kind %u: %s",
		 (unsigned long long)run->result->given, record->kind, what);
}

static void check_frames(struct run *run, const struct tm_record_block *record)
{
	if (run->stress->native)
		return; /* take_native has */
	if (record->frame_count != 1 || record->frame_total != 1)
		wrong(run, &record->header, "%u frames of %u", record->frame_count, record->frame_total);
	else if (record->frames[0].instruction != record->size)
		wrong(run, &record->header, "instruction %llu, size %llu",
		      (unsigned long long)record->frames[0].instruction, (unsigned long long)record->size);
}

/* A record of a native allocator's as that of the other. */
static unsigned kind_of(const struct tm_record_header *record)
{
	switch (record->kind) {
	case TM_RECORD_NATIVE_ALLOCATE:
		return TM_RECORD_ALLOCATE;
	case TM_RECORD_NATIVE_RESIZE_END:
		return TM_RECORD_RESIZE_END;
	case TM_RECORD_NATIVE_FAIL:
		return TM_RECORD_FAIL;
	case TM_RECORD_NATIVE_FREE:
		return TM_RECORD_FREE;
	case TM_RECORD_NATIVE_RESIZE_BEGIN:
		return TM_RECORD_RESIZE_BEGIN;
	default:
		return record->kind;
	}
}

static void check_address(struct run *run, struct address *address, const struct tm_record_block *record)
{
	static const struct {
		int before, after;
		bool versioned;
	} steps[] = {
		[TM_RECORD_ALLOCATE] = {DEAD, LIVE, true},
		[TM_RECORD_FREE] = {LIVE, DEAD, false},
		[TM_RECORD_RESIZE_BEGIN] = {LIVE, RESIZING, false},
		[TM_RECORD_RESIZE_END] = {RESIZING, LIVE, true},
	};
	unsigned kind = kind_of(&record->header);

	if (kind >= sizeof(steps) / sizeof(steps[0]) || (!steps[kind].before && !steps[kind].after)) {
		wrong(run, &record->header, "no such record was made");
		return;
	}
	if ((int)address->seen != steps[kind].before)
		wrong(run, &record->header, "the address' state is %d", address->seen);
	address->seen = steps[kind].after;
	if (!steps[kind].versioned)
		return;
	if (record->size != ++address->seen_version)
		wrong(run, &record->header, "version %llu, not %llu", (unsigned long long)record->size,
		      (unsigned long long)address->seen_version);
	check_frames(run, record);
}

static void check_stream(struct run *run, const struct tm_record_header *record, uint64_t block)
{
	uint64_t *next = &run->streams[(block - STREAM) >> 24], number = (block >> 4) & 0xfffff;

	if (number < *next || (number != *next && !run->stress->jump_us))
		wrong(run, record, "number %llu, not %llu", (unsigned long long)number,
		      (unsigned long long)*next);
	else
		run->result->lost += number - *next;
	*next = number + 1;
}

/* False: it is no call's record. */
static bool take_native(struct run *run, unsigned ring, const struct tm_record_native *record)
{
	bool right, is_call;

	if (record->header.kind < TM_RECORD_NATIVE_ALLOCATE || record->header.kind > TM_RECORD_NATIVE_STACK)
		return true;
	is_call = native_reader_take(&run->native, ring, record, stack_number(record->block, record->size),
				     &right);
	/* Its thread may not have waited: it has jumped out. */
	if (!right && record->header.flags & TM_RECORD_NO_FRAMES && run->stress->jump_us)
		run->result->unseen++;
	else if (!right)
		wrong(run, &record->header,
		      "block 0x%llx, size %llu: %u frames kept, %u fresh, and the stack is wrong",
		      (unsigned long long)record->block, (unsigned long long)record->size, record->kept,
		      record->fresh);
	return is_call;
}

static void take_call(struct run *run, const struct tm_record_header *record)
{
	const struct tm_record_block *block = (const struct tm_record_block *)record;

	run->result->given++;
	if (kind_of(record) == TM_RECORD_FAIL)
		return;
	if (record->flags & TM_RECORD_LOOK) {
		run->result->looks++;
		if (!(record->flags & TM_RECORD_NO_FRAMES))
			for (uint32_t i = 0; i < block->frame_count; i++)
				tm_shared_add_code(run->plant->shared, block->frames[i].code);
	}
	if (block->block >= STREAM)
		check_stream(run, record, block->block);
	else
		check_address(run, &run->addresses[(block->block - FIRST) / 64], block);
}

static void take_remembered(struct run *run, unsigned ring, const struct tm_record_remembered *record)
{
	struct tm_record_block same = {
		.header = record->header, .block = record->block, .size = record->size};

	same.header.kind = record->header.kind == TM_RECORD_NATIVE_REMEMBERED ? TM_RECORD_NATIVE_ALLOCATE
									      : TM_RECORD_NATIVE_RESIZE_END;
	if (!native_reader_recall(&run->native, ring, record, stack_number(record->block, record->size)))
		wrong(run, &record->header, "block 0x%llx, size %llu: stack %u is another one",
		      (unsigned long long)record->block, (unsigned long long)record->size, record->number);
	take_call(run, &same.header);
}

static struct tm_error *take(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct run *run = context;

	if (record->kind == TM_RECORD_CODE)
		run->result->told++;
	else if (record->kind == TM_RECORD_NATIVE_REMEMBERED ||
		 record->kind == TM_RECORD_NATIVE_RESIZE_REMEMBERED)
		take_remembered(run, ring, (const struct tm_record_remembered *)record);
	else if (!run->stress->native || take_native(run, ring, (const struct tm_record_native *)record))
		take_call(run, record);
	return NULL;
}

static void *read_rings(void *argument)
{
	struct run *run = argument;
	struct tm_record_sink sink = {run, take, NULL};
	bool slow = run->stress->slow_reader, stop;
	size_t count;

	do {
		stop = __atomic_load_n(&run->stop, __ATOMIC_ACQUIRE);
		need(!tm_ring_reader_pass(run->plant->reader, &sink, slow ? 100 : 0, &count));
		if (slow || !count)
			sched_yield();
	} while (!stop);
	need(!tm_ring_reader_drain(run->plant->reader, &sink, &count));
	return NULL;
}

/* ---- a run ---- */

/* Stacks that stand directly below the signal stacks. */
static void start_worker(struct worker *worker)
{
	pthread_attr_t attributes;

	need(!posix_memalign((void **)&worker->native, sizeof(*worker->native), sizeof(*worker->native)));
	worker->memory = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(worker->memory != MAP_FAILED);
	need(!pthread_attr_init(&attributes));
	if (worker->run->stress->signal_stacks)
		need(!pthread_attr_setstack(&attributes, worker->memory, STACK));
	need(!pthread_create(&worker->thread, &attributes, work, worker));
	pthread_attr_destroy(&attributes);
}

static void let_ring_go(struct run *run, uint64_t pointer)
{
	for (unsigned i = 0; i < TM_RINGS; i++) {
		uint64_t *word = &run->plant->control->threads[i].thread_pointer;

		if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == pointer)
			__atomic_store_n(word, TM_THREAD_GONE, __ATOMIC_RELEASE);
	}
}

static void run_generation(struct run *run, unsigned generation)
{
	unsigned count = run->stress->threads;
	struct worker *workers = calloc(count, sizeof(*workers));

	need(workers != NULL);
	for (unsigned i = 0; i < count; i++) {
		workers[i].run = run;
		workers[i].index = generation * count + i;
		workers[i].random = (workers[i].index + 1) * UINT64_C(0x9e3779b97f4a7c15);
		start_worker(&workers[i]);
	}
	for (unsigned i = 0; i < count; i++) {
		need(!pthread_join(workers[i].thread, NULL));
		need(!munmap(workers[i].memory, 2 * STACK));
		free(workers[i].native);
	}
	for (unsigned i = 0; i < count && run->stress->leave_rings; i++)
		let_ring_go(run, workers[i].pointer);
	free(workers);
}

static void handle_alarms(bool on_signal_stack)
{
	struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};

	if (on_signal_stack)
		action.sa_flags |= SA_ONSTACK;
	need(!sigaction(SIGALRM, &action, NULL));
}

void stress_run(struct plant *plant, const struct stress *stress, struct stress_result *result)
{
	struct run *run = calloc(1, sizeof(*run));
	pthread_t reader;

	need(run && stress->addresses <= ADDRESSES && stress->threads * stress->generations <= STREAMS);
	*result = (struct stress_result){0};
	run->plant = plant;
	run->stress = stress;
	run->result = result;
	run->native.plant = plant;
	run->native.rows.shared = plant->shared;
	run->codes = calloc(stress->codes, sizeof(*run->codes));
	need(run->codes != NULL);
	for (unsigned i = 0; i < stress->codes; i++)
		plant_make_code(&run->codes[i], i % 4 == 1);
	handle_alarms(stress->signal_stacks);
	need(!pthread_create(&reader, NULL, read_rings, run));
	for (unsigned i = 0; i < stress->generations; i++)
		run_generation(run, i);
	__atomic_store_n(&run->stop, true, __ATOMIC_RELEASE);
	need(!pthread_join(reader, NULL));
	result->calls = run->calls;
	result->handler_calls = run->handler_calls;
	result->jumps = run->jumps;
	result->asked = run->native.asked;
	result->walked = run->native.walked;
	result->kept = run->native.kept;
	result->fresh = run->native.fresh;
	result->recalled = run->native.recalled;
	native_reader_deinit(&run->native);
	free(run->codes);
	free(run);
}
