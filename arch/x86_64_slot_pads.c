/*
 * The pads of slot_pads.h for x86-64. The functions of a PyMemAllocatorEx (CPython, Include/cpython/pymem.h)
 * have their context in rdi, which a pad passes on untouched: malloc(ctx, size) calloc(ctx, count, size)
 * realloc(ctx, block, size) free(ctx, block).
 *
 * A call finds rsp at 16n + 8 (psABI 3.2.2), and must find it so in the original function. The registers that
 * a pad uses besides the arguments are caller-saved. fs:0 holds the thread pointer itself (psABI 3.4.6, "TLS
 * variant II"; glibc's and musl's pthread_self).
 */
#include <assert.h>
#include <string.h>

#include "arch/slot_pads.h"

enum { RAX = 0, RDX = 1, RCX = 2, RSI = 4, RDI = 5 }; /* DWARF numbers */

#define OUTER 16u     /* in the data page */
#define NEAR  0x2000u /* a nested call's frame is no farther below `outer` */

#define EMIT(pads, ...)                                                                                      \
	do {                                                                                                 \
		static const uint8_t bytes_[] = {__VA_ARGS__};                                               \
		emit((pads), bytes_, sizeof(bytes_));                                                        \
	} while (0)

static void emit(struct tm_slot_pads *pads, const uint8_t *bytes, size_t size)
{
	assert(pads->size + size <= sizeof(pads->code));
	memcpy(pads->code + pads->size, bytes, size);
	pads->size += size;
}

/* The disp32 of a rip-relative operand in the data page; `behind` more bytes of the instruction follow it. */
static void emit_data(struct tm_slot_pads *pads, uint32_t data_offset, unsigned behind)
{
	uint32_t displacement = TM_SLOT_PAGE + data_offset - (uint32_t)(pads->size + 4 + behind);

	emit(pads, (const uint8_t *)&displacement, sizeof(displacement));
}

/* A place where a breakpoint may stand. */
static void emit_stop_point(struct tm_slot_pads *pads, unsigned slot, bool is_entry)
{
	pads->stops[pads->stop_count++] = (struct tm_slot_stop){
		.offset = (uint16_t)pads->size,
		.slot = (uint16_t)slot,
		.is_entry = is_entry,
	};
	emit(pads, tm_arch_x86_64.stop_point, tm_arch_x86_64.stop_point_size);
}

/* Calls an entry of the recorder with rdi's value and the slot; all arguments keep their values. rsp is 16n +
   8 here, so that three words make it right for the call. */
static void emit_recorder_call(struct tm_slot_pads *pads, unsigned entry, unsigned slot)
{
	const uint32_t number = slot;

	EMIT(pads, 0x57, 0x56, 0x52); /* push %rdi; push %rsi; push %rdx */
	if (entry != TM_SLOT_ENTRY_REFERENCE)
		EMIT(pads, 0x48, 0x89, 0xf7); /* mov %rsi,%rdi */
	EMIT(pads, 0xbe);		      /* mov $slot,%esi */
	emit(pads, (const uint8_t *)&number, sizeof(number));
	EMIT(pads, 0xff, 0x15); /* call *entry(%rip) */
	emit_data(pads, TM_SLOT_ENTRY(entry), 0);
	EMIT(pads, 0x5a, 0x5e, 0x5f); /* pop %rdx; pop %rsi; pop %rdi */
}

/* Before a call: the block that is given back in rsi. */
static void emit_enter(struct tm_slot_pads *pads, unsigned slot)
{
	if (pads->records)
		emit_recorder_call(pads, TM_SLOT_ENTRY_ENTER, slot);
	else
		emit_stop_point(pads, slot, true);
}

/* A short forward jump; returns where its distance is to be written. */
static size_t emit_jump(struct tm_slot_pads *pads, uint8_t opcode)
{
	emit(pads, (const uint8_t[]){opcode, 0}, 2);
	return pads->size - 1;
}

static void land(struct tm_slot_pads *pads, size_t jump)
{
	assert(pads->size - jump - 1 < 128);
	pads->code[jump] = (uint8_t)(pads->size - jump - 1);
}

static void emit_tail_call(struct tm_slot_pads *pads, unsigned slot)
{
	EMIT(pads, 0xff, 0x25); /* jmp *original(%rip) */
	emit_data(pads, TM_SLOT_ORIGINAL(slot), 0);
}

/* A nested call of the raw table goes to the original function; the jump is to be landed there. Flags and rax
 * are free here. */
static size_t emit_nested_check(struct tm_slot_pads *pads)
{
	EMIT(pads, 0x48, 0x8b, 0x05); /* mov outer(%rip),%rax */
	emit_data(pads, OUTER, 0);
	EMIT(pads, 0x48, 0x29, 0xe0);			      /* sub %rsp,%rax */
	EMIT(pads, 0x48, 0x3d, NEAR & 0xff, NEAR >> 8, 0, 0); /* cmp $NEAR,%rax */
	return emit_jump(pads, 0x72);			      /* jb */
}

static void emit_call(struct tm_slot_pads *pads, unsigned slot)
{
	bool outermost = slot / TM_SLOT_FUNCTIONS != TM_SLOT_RAW;

	if (outermost) {
		EMIT(pads, 0x48, 0x89, 0x25); /* mov %rsp,outer(%rip) */
		emit_data(pads, OUTER, 0);
	}
	EMIT(pads, 0xff, 0x15); /* call *original(%rip) */
	emit_data(pads, TM_SLOT_ORIGINAL(slot), 0);
	if (outermost) {
		EMIT(pads, 0x48, 0xc7, 0x05); /* movq $0,outer(%rip) */
		emit_data(pads, OUTER, 4);
		EMIT(pads, 0, 0, 0, 0);
	}
}

/* Behind the call: the block in rax, the size in rsi, a resize's old block in rcx. The recorder returns the
 * block. */
static void emit_recorder_leave(struct tm_slot_pads *pads, unsigned slot)
{
	const uint32_t number = slot;

	EMIT(pads, 0x48, 0x89, 0xc7); /* mov %rax,%rdi */
	if (slot % TM_SLOT_FUNCTIONS == TM_SLOT_REALLOC)
		EMIT(pads, 0x48, 0x89, 0xca); /* mov %rcx,%rdx */
	else
		EMIT(pads, 0x31, 0xd2); /* xor %edx,%edx */
	EMIT(pads, 0xb9);		/* mov $slot,%ecx */
	emit(pads, (const uint8_t *)&number, sizeof(number));
	EMIT(pads, 0xff, 0x25); /* jmp *leave(%rip) */
	emit_data(pads, TM_SLOT_ENTRY(TM_SLOT_ENTRY_LEAVE), 0);
}

/* The same for a stop, with the thread pointer in rdx. */
static void emit_leave(struct tm_slot_pads *pads, unsigned slot)
{
	if (pads->records) {
		emit_recorder_leave(pads, slot);
		return;
	}
	EMIT(pads, 0x64, 0x48, 0x8b, 0x14, 0x25, 0, 0, 0, 0); /* mov %fs:0,%rdx */
	emit_stop_point(pads, slot, false);
	EMIT(pads, 0xc3); /* ret */
}

static void emit_allocate(struct tm_slot_pads *pads, unsigned slot)
{
	if (slot % TM_SLOT_FUNCTIONS == TM_SLOT_CALLOC) {
		EMIT(pads, 0x48, 0x89, 0xf0);	    /* mov %rsi,%rax */
		EMIT(pads, 0x48, 0x0f, 0xaf, 0xc2); /* imul %rdx,%rax */
		EMIT(pads, 0x50);		    /* push %rax */
	} else {
		EMIT(pads, 0x56); /* push %rsi */
	}
	emit_call(pads, slot);
	EMIT(pads, 0x5e); /* pop %rsi */
	emit_leave(pads, slot);
}

static void emit_reallocate(struct tm_slot_pads *pads, unsigned slot)
{
	size_t no_block;

	EMIT(pads, 0x48, 0x85, 0xf6);	  /* test %rsi,%rsi */
	no_block = emit_jump(pads, 0x74); /* jz */
	emit_enter(pads, slot);
	land(pads, no_block);
	EMIT(pads, 0x52);		    /* push %rdx */
	EMIT(pads, 0x56);		    /* push %rsi */
	EMIT(pads, 0x48, 0x83, 0xec, 0x08); /* sub $8,%rsp */
	emit_call(pads, slot);
	EMIT(pads, 0x48, 0x83, 0xc4, 0x08); /* add $8,%rsp */
	EMIT(pads, 0x59);		    /* pop %rcx */
	EMIT(pads, 0x5e);		    /* pop %rsi */
	emit_leave(pads, slot);
}

/* It is told before the call: afterwards another thread may have been given the address. */
static void emit_free(struct tm_slot_pads *pads, unsigned slot)
{
	size_t no_block;

	EMIT(pads, 0x48, 0x85, 0xf6);	  /* test %rsi,%rsi */
	no_block = emit_jump(pads, 0x74); /* jz */
	emit_enter(pads, slot);
	land(pads, no_block);
	EMIT(pads, 0x48, 0x83, 0xec, 0x08); /* sub $8,%rsp */
	emit_call(pads, slot);
	EMIT(pads, 0x48, 0x83, 0xc4, 0x08); /* add $8,%rsp */
	EMIT(pads, 0xc3);		    /* ret */
}

static void align(struct tm_slot_pads *pads)
{
	while (pads->size % 16)
		EMIT(pads, 0x90); /* nop */
}

static void emit_pad(struct tm_slot_pads *pads, unsigned slot)
{
	bool raw = slot / TM_SLOT_FUNCTIONS == TM_SLOT_RAW;
	size_t nested = 0;

	align(pads);
	pads->entries[slot] = (uint16_t)pads->size;
	if (raw)
		nested = emit_nested_check(pads);
	switch ((enum tm_slot_function)(slot % TM_SLOT_FUNCTIONS)) {
	case TM_SLOT_MALLOC:
	case TM_SLOT_CALLOC:
		emit_allocate(pads, slot);
		break;
	case TM_SLOT_REALLOC:
		emit_reallocate(pads, slot);
		break;
	case TM_SLOT_FREE:
		emit_free(pads, slot);
		break;
	case TM_SLOT_FUNCTIONS:
		break;
	}
	if (!raw)
		return;
	land(pads, nested);
	emit_tail_call(pads, slot);
}

/*
 * int tracer(object, event, data) of PyRefTracer_SetTracer (Include/cpython/object.h of 3.13); event 0 is the
 * creation. The tracer that was there before, if any, is called with the data that are its own.
 */
static void emit_reference(struct tm_slot_pads *pads)
{
	size_t other_event, no_tracer;

	EMIT(pads, 0x85, 0xf6);		     /* test %esi,%esi */
	other_event = emit_jump(pads, 0x75); /* jnz */
	if (pads->records) {
		emit_recorder_call(pads, TM_SLOT_ENTRY_REFERENCE, TM_SLOT_REFERENCE);
	} else {
		EMIT(pads, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0); /* mov %fs:0,%rax */
		emit_stop_point(pads, TM_SLOT_REFERENCE, false);
	}
	land(pads, other_event);
	EMIT(pads, 0x48, 0x8b, 0x05); /* mov original(%rip),%rax */
	emit_data(pads, TM_SLOT_ORIGINAL(TM_SLOT_REFERENCE), 0);
	EMIT(pads, 0x48, 0x85, 0xc0);	   /* test %rax,%rax */
	no_tracer = emit_jump(pads, 0x74); /* jz */
	EMIT(pads, 0xff, 0xe0);		   /* jmp *%rax */
	land(pads, no_tracer);
	EMIT(pads, 0x31, 0xc0, 0xc3); /* xor %eax,%eax; ret */
}

void tm_x86_64_slot_pads(struct tm_slot_pads *pads)
{
	emit(pads, (const uint8_t *)pads->magic, sizeof(pads->magic));
	for (unsigned slot = 0; slot < TM_SLOT_REFERENCE; slot++)
		emit_pad(pads, slot);
	align(pads);
	pads->entries[TM_SLOT_REFERENCE] = (uint16_t)pads->size;
	emit_reference(pads);
	pads->block = RAX;
	pads->size_asked = RSI;
	pads->old = RCX;
	pads->thread_pointer = RDX;
	pads->entry_old = RSI;
	pads->object = RDI;
	pads->object_thread_pointer = RAX;
}
