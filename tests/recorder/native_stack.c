#include "recorder/native_stack.h"

#include <stdlib.h>
#include <string.h>

#define FUNCTIONS 4u
#define WHAT	  (7u << 16)

/* Return addresses into the functions of the made-up program. Where they call operator new is another place.
 */
enum { MAIN = 0x1000, FIRST = 0x2000, APART = 0x1000, CALLS_NEW = 8, NEW = 0x8000, PAD = 0x9000 };

static uint64_t hash(uint64_t number)
{
	number *= UINT64_C(0x9e3779b97f4a7c15);
	return number ^ number >> 29;
}

/* The outermost first. The outer half differs seldom. */
static size_t make_frames(uint64_t number, uint64_t frames[NATIVE_DEPTH])
{
	uint64_t random = hash(number & ~NATIVE_BY_NEW);
	size_t count = 1 + random % (NATIVE_DEPTH - 1);

	frames[0] = MAIN;
	for (size_t i = 1; i < count; i++)
		frames[i] = FIRST +
			    APART * ((i < NATIVE_DEPTH / 2 ? random >> 62 : random >> i % 32) % FUNCTIONS);
	if (number & NATIVE_BY_NEW)
		frames[count - 1] += CALLS_NEW;
	return count;
}

static unsigned frame_words(uint64_t pc)
{
	return 2 + (unsigned)(pc / APART) % 3;
}

static uint64_t push(uint64_t cfa, uint64_t pc)
{
	cfa -= 8 * frame_words(pc);
	*(uint64_t *)(cfa - 8) = pc;
	return cfa;
}

uint64_t native_stack_set(struct native_stack *stack, bool in_handler, uint64_t number)
{
	uint64_t cfa = (uint64_t)(stack->memory + (in_handler ? NATIVE_WORDS : 2 * NATIVE_WORDS));
	uint64_t frames[NATIVE_DEPTH];
	size_t count = make_frames(number, frames);

	for (size_t i = 0; i < count; i++)
		cfa = push(cfa, frames[i]);
	return cfa;
}

static uint64_t *put_words(uint64_t cfa, uint32_t what, uint64_t first, uint64_t second)
{
	uint64_t *words = (uint64_t *)(cfa - 8) - 3;

	words[0] = what | 3;
	words[1] = first;
	words[2] = second;
	return words;
}

static void leave(uint64_t *words, uint64_t result)
{
	const struct tm_native_registers kept = {1, 2, 3, 4, 5, 6};

	if (!tm_native_leave(result, words, kept.rbp))
		tm_native_leave_looked_at(result, words, &kept);
}

void native_resize(uint64_t cfa, uint64_t old, uint64_t size)
{
	tm_native_resize(put_words(cfa, WHAT | TM_PAD_RESIZES, old, size));
}

void native_leave(uint64_t cfa, uint64_t block, uint64_t size, uint64_t old)
{
	leave(old ? put_words(cfa, WHAT | TM_PAD_RESIZES, old, size) : put_words(cfa, WHAT, size, size),
	      block);
}

void native_leave_new(uint64_t cfa, uint64_t block, uint64_t size)
{
	tm_native_new(size, cfa);
	native_leave(push(cfa, NEW), block, size, 0);
}

void native_leave_inner(uint64_t cfa, uint64_t block, uint64_t size)
{
	native_leave(push(push(cfa, PAD), FIRST), block, size, 0);
}

/* ---- the tracer's ---- */

static uint64_t rule_of(uint64_t pc)
{
	return (pc & ~(uint64_t)CALLS_NEW) == MAIN
		       ? tm_row_rule(TM_ROW_OUTERMOST, 0, 0, 0)
		       : tm_row_rule(TM_ROW_STEP, pc == PAD ? TM_ROW_IN_CALL : 0, 8 * frame_words(pc), 0);
}

/* The stack that a waiting thread has. Returns 0 for a call that an allocator makes. */
static size_t walk(const struct tm_record_native *record, uint64_t frames[NATIVE_DEPTH])
{
	uint64_t inner[NATIVE_DEPTH + 3], pc = record->words[TM_RECORD_PC], cfa = record->words[TM_RECORD_SP];
	uint64_t end = (cfa | (sizeof(struct native_stack) - 1)) + 1;
	size_t count = 0, kept = 0;
	bool in_call = false;

	while (count < NATIVE_DEPTH + 2 && pc / APART != MAIN / APART && cfa + 8 * frame_words(pc) <= end) {
		in_call = in_call || pc == PAD;
		inner[count++] = pc;
		cfa += 8 * frame_words(pc);
		pc = *(const uint64_t *)(cfa - 8);
	}
	inner[count++] = pc;
	while (count-- > 0 && kept < NATIVE_DEPTH)
		if (inner[count] != NEW)
			frames[kept++] = inner[count];
	return in_call ? 0 : kept;
}

/* The memory of the thread's stacks has the size of one: it is aligned to it. Bounds that are right stay
   untouched: who has jumped out of its waiting reads them meanwhile. */
static void check_bounds(struct tm_ring_head *head, uint64_t sp)
{
	uint64_t size = sizeof(struct native_stack), low = sp & ~(size - 1);

	if (__atomic_load_n(&head->stack_low, __ATOMIC_ACQUIRE) == low)
		return;
	__atomic_store_n(&head->stack_high, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&head->stack_low, low, __ATOMIC_RELEASE);
	__atomic_store_n(&head->stack_high, low + size, __ATOMIC_RELEASE);
}

static void answer(struct native_reader *reader, unsigned ring, const struct tm_record_native *record)
{
	check_bounds(plant_ring(reader->plant, ring), record->words[TM_RECORD_SP]);
	for (uint64_t pc = MAIN; pc < FIRST + APART * FUNCTIONS; pc += APART)
		need(tm_row_put(&reader->rows, pc, rule_of(pc)) &&
		     tm_row_put(&reader->rows, pc + CALLS_NEW, rule_of(pc + CALLS_NEW)));
	need(tm_row_put(&reader->rows, NEW, rule_of(NEW)));
	need(tm_row_put(&reader->rows, PAD, rule_of(PAD)));
}

static void unmap_something(struct native_reader *reader)
{
	uint64_t pc = FIRST + APART * (reader->turn / 1000 % FUNCTIONS);

	if (++reader->turn % 1000)
		return;
	tm_rows_forget(&reader->rows, pc, pc + 1);
	if (reader->turn % 3000 == 0)
		tm_rows_new_generation(&reader->rows);
}

static void remember(struct native_reader *reader, unsigned ring, unsigned number)
{
	struct native_frames **remembered = &reader->remembered[ring];

	need(number <= TM_REMEMBERED);
	if (!*remembered)
		*remembered = calloc(TM_REMEMBERED + 1, sizeof(**remembered));
	need(*remembered != NULL);
	(*remembered)[number] = reader->stacks[ring];
}

static bool follow(struct native_reader *reader, unsigned ring, const struct tm_record_native *record)
{
	uint64_t *frames = reader->stacks[ring].frames;
	size_t count = record->kept;

	if (record->kept > reader->stacks[ring].count || record->kept + record->fresh > NATIVE_DEPTH)
		return false;
	for (unsigned i = record->fresh; i-- > 0;)
		frames[count++] = record->words[i];
	reader->stacks[ring].count = count;
	reader->kept += record->kept;
	reader->fresh += record->fresh;
	if (record->number)
		remember(reader, ring, record->number);
	return true;
}

static bool is_stack_of(uint64_t number, const uint64_t *frames, size_t count)
{
	uint64_t wanted[NATIVE_DEPTH];

	return count == make_frames(number, wanted) && memcmp(frames, wanted, count * sizeof(wanted[0])) == 0;
}

bool native_reader_recall(struct native_reader *reader, unsigned ring,
			  const struct tm_record_remembered *record, uint64_t number)
{
	const struct native_frames *frames = reader->remembered[ring];

	unmap_something(reader);
	if (!frames || record->number - 1 >= TM_REMEMBERED)
		return false;
	reader->recalled++;
	return is_stack_of(number, frames[record->number].frames, frames[record->number].count);
}

void native_reader_deinit(struct native_reader *reader)
{
	tm_row_table_deinit(&reader->rows);
	for (unsigned i = 0; i < TM_RINGS; i++)
		free(reader->remembered[i]);
}

bool native_reader_take(struct native_reader *reader, unsigned ring, const struct tm_record_native *record,
			uint64_t number, bool *right)
{
	uint64_t walked[NATIVE_DEPTH], *frames = walked;
	size_t got;

	*right = true;
	unmap_something(reader);
	if (record->header.kind == TM_RECORD_NATIVE_STACK) {
		reader->asked++;
		answer(reader, ring, record);
		return false;
	}
	if (record->header.flags & TM_RECORD_NO_FRAMES) {
		reader->walked++;
		got = walk(record, walked);
		if (!got)
			return false;
	} else {
		*right = follow(reader, ring, record);
		got = reader->stacks[ring].count;
		frames = reader->stacks[ring].frames;
	}
	*right = *right && is_stack_of(number, frames, got);
	return true;
}
