#include "recorder/stress.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

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
	uint64_t calls, handler_calls;
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

static void resize(struct worker *worker, struct address *address, uint64_t block)
{
	const struct plant *plant = worker->run->plant;

	plant->enter(block, PLANT_RAW_REALLOC);
	worker->frame.instruction = (int32_t)++address->version;
	plant->leave(block, address->version, block, PLANT_RAW_REALLOC);
	worker->calls += 2;
}

static void call(struct worker *worker, struct address *address, uint64_t block, uint64_t random)
{
	const struct plant *plant = worker->run->plant;

	if (random % 64 == 0) {
		plant->leave(0, 1, 0, PLANT_RAW_MALLOC);
	} else if (!address->live) {
		worker->frame.instruction = (int32_t)++address->version;
		plant->leave(block, address->version, 0, PLANT_RAW_MALLOC);
		address->live = true;
	} else if (random % 4 == 1) {
		resize(worker, address, block);
		return;
	} else {
		plant->enter(block, PLANT_RAW_FREE);
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

static void on_timer(int signal)
{
	struct worker *worker = own_worker;
	uint64_t block = STREAM + ((uint64_t)worker->index << 24) + (worker->handler_calls << 4);

	(void)signal;
	if (worker->handler_calls & 1)
		worker->run->plant->enter(block, PLANT_RAW_FREE);
	else
		worker->run->plant->leave(block, 1, 0, PLANT_RAW_MALLOC);
	worker->handler_calls = worker->handler_calls + 1;
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
	if (stress->handler_us)
		timer = start_timer(stress->handler_us);
	while (worker->calls < stress->calls)
		step(worker);
	if (stress->handler_us)
		stop_timer(timer);
	__atomic_fetch_add(&worker->run->calls, worker->calls, __ATOMIC_RELAXED);
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
	if (record->frame_count != 1 || record->frame_total != 1)
		wrong(run, &record->header, "%u frames of %u", record->frame_count, record->frame_total);
	else if (record->frames[0].instruction != record->size)
		wrong(run, &record->header, "instruction %llu, size %llu",
		      (unsigned long long)record->frames[0].instruction, (unsigned long long)record->size);
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
	unsigned kind = record->header.kind;

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

	if (number != *next)
		wrong(run, record, "number %llu, not %llu", (unsigned long long)number,
		      (unsigned long long)*next);
	*next = number + 1;
}

static struct tm_error *take(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct run *run = context;
	const struct tm_record_block *block = (const struct tm_record_block *)record;

	(void)ring;
	if (record->kind == TM_RECORD_CODE) {
		run->result->told++;
		return NULL;
	}
	run->result->given++;
	if (record->kind == TM_RECORD_FAIL)
		return NULL;
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
	free(run->codes);
	free(run);
}
